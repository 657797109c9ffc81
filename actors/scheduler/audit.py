"""Does the scheduler's database agree with its journal? Replays every event and compares, by reading only.

The replay knows the rules by itself and trusts no table: caps hold after each event, a reservation ends once, a charge
is at most what was reserved, a lease ends once and costs what its reservation was charged, a slot is never over-full.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Any

from cluster.journal import Event, read_events, verify_chain
from cluster.money import DIMENSIONS, Amounts, Caps


@dataclass(frozen=True, slots=True)
class Fault:
    """What does not agree, and the event at which it shows (0: only in the tables)."""

    seq: int
    text: str


@dataclass(slots=True)
class _Account:
    parent: str | None
    caps: Caps
    spent: Amounts = field(default_factory=Amounts)
    reserved: Amounts = field(default_factory=Amounts)


@dataclass(slots=True)
class _Hold:
    account: str
    amounts: Amounts
    state: str = "held"
    charged: Amounts = field(default_factory=Amounts)


def audit(db: sqlite3.Connection) -> list[Fault]:
    """All disagreements of a scheduler's database that was opened read-only, the first one first; empty when clean."""
    chain = verify_chain(db)
    if chain.broken is not None:
        return [Fault(chain.broken.seq, f"the journal is broken: {chain.broken.reason}")]
    replay = _Replay()
    for event in read_events(db):
        replay.apply(event)
    return replay.faults + _compare(db, replay)


class _Replay:
    """The state that the journal tells."""

    def __init__(self) -> None:
        self.accounts: dict[str, _Account] = {}
        self.holds: dict[str, _Hold] = {}
        self.leases: dict[str, str] = {}
        self.places: dict[str, tuple[str, int]] = {}
        self.faults: list[Fault] = []
        self._seq = 0

    def _expect(self, holds: bool, text: str) -> bool:
        if not holds:
            self.faults.append(Fault(self._seq, text))
        return holds

    def apply(self, event: Event) -> None:
        """One event more."""
        self._seq = event.seq
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            try:
                handler(event.payload)
            except (KeyError, TypeError) as error:
                self._expect(False, f"{event.kind}: {type(error).__name__} {error}")

    def _chain(self, account: str) -> list[_Account]:
        chain: list[_Account] = []
        at: str | None = account
        while at is not None and len(chain) <= len(self.accounts):
            chain.append(self.accounts[at])
            at = chain[-1].parent
        return chain

    def _on_account_opened(self, p: dict[str, Any]) -> None:
        if self._expect(p["account"] not in self.accounts, f"account {p['account']} opened twice"):
            self.accounts[p["account"]] = _Account(p["parent"], Caps.from_dict(p["caps"]))

    def _on_reserved(self, p: dict[str, Any]) -> None:
        amounts = Amounts.from_dict(p["amounts"])
        self._expect(p["key"] not in self.holds, f"key {p['key']} reserved twice")
        self._expect(not amounts.negative(), f"key {p['key']} reserves less than nothing")
        self.holds[p["key"]] = _Hold(p["account"], amounts)
        for account in self._chain(p["account"]):
            account.reserved += amounts
            over = account.caps.exceeded_by(account.spent + account.reserved)
            self._expect(over is None, f"reserving {p['key']} takes an account of {p['account']} over its cap: {over}")

    def _ended(self, p: dict[str, Any], state: str, charged: Amounts) -> None:
        hold = self.holds[p["key"]]
        self._expect(hold.state == "held", f"reservation {p['key']} is {state} after it was {hold.state}")
        over = charged.capped_by(hold.amounts) != charged or charged.negative()
        self._expect(not over, f"reservation {p['key']} is charged outside of what it held")
        hold.state, hold.charged = state, charged
        for account in self._chain(hold.account):
            account.reserved -= hold.amounts
            account.spent += charged

    def _on_settled(self, p: dict[str, Any]) -> None:
        self._ended(p, "settled", Amounts.from_dict(p["amounts"]))

    def _on_released(self, p: dict[str, Any]) -> None:
        self._ended(p, "released", Amounts())

    def _on_lease_requested(self, p: dict[str, Any]) -> None:
        name = p["request_id"]
        self._expect(name not in self.leases, f"request {name} is queued twice")
        held = self.holds.get(f"lease/{name}")
        self._expect(held is not None and held.account == p["account"], f"request {name} has no reservation")
        self.leases[name] = "queued"

    def _on_lease_granted(self, p: dict[str, Any]) -> None:
        name, slot = p["request_id"], p["slot"]
        self._expect(self.leases[name] == "queued", f"request {name} is granted while {self.leases[name]}")
        self.leases[name] = "running"
        self.places[name] = (slot, round(p["gpus"] * 1000))
        used = sum(share for place, share in self.places.values() if place == slot)
        self._expect(used <= 1000, f"slot {slot} holds {used} thousandths")

    def _on_lease_lost(self, p: dict[str, Any]) -> None:
        name = p["request_id"]
        self._expect(self.leases[name] == "running", f"request {name} is lost while {self.leases[name]}")
        self.leases[name] = "queued"
        del self.places[name]

    def _on_lease_ended(self, p: dict[str, Any]) -> None:
        name = p["request_id"]
        self._expect(self.leases[name] in ("queued", "running"), f"request {name} ends after it ended")
        self.leases[name] = p["status"]
        self.places.pop(name, None)
        hold = self.holds[f"lease/{name}"]
        self._expect(hold.state != "held", f"request {name} ended and its reservation did not")
        same = (hold.charged.usd, hold.charged.gpu_ms) == (p["usd"], p["gpu_ms"])
        self._expect(same, f"request {name} says it cost {p['usd']}, its account was charged {hold.charged.usd}")


def _compare(db: sqlite3.Connection, replay: _Replay) -> list[Fault]:
    faults = []
    for name, journal, table in [*_balances(db, replay), *_reservations(db, replay), *_leases(db, replay)]:
        if journal != table:
            faults.append(Fault(0, f"{name}: the journal says {journal}, the table {table}"))
    return faults


_Row = tuple[str, Any, Any]


def _pair(what: str, journal: dict[str, Any], table: dict[str, Any]) -> list[_Row]:
    return [(f"{what} {name}", journal.get(name), table.get(name)) for name in sorted(journal.keys() | table.keys())]


def _balances(db: sqlite3.Connection, replay: _Replay) -> list[_Row]:
    table = {
        f"{r['account']}.{r['dimension']}": (r["cap"], r["spent"], r["reserved"])
        for r in db.execute("SELECT * FROM balances")
    }
    journal = {
        f"{name}.{d}": (getattr(a.caps, d), getattr(a.spent, d), getattr(a.reserved, d))
        for name, a in replay.accounts.items()
        for d in DIMENSIONS
    }
    return _pair("balance of", journal, table)


def _reservations(db: sqlite3.Connection, replay: _Replay) -> list[_Row]:
    charged = ", ".join(f"charged_{d}" for d in DIMENSIONS)
    rows = db.execute(f"SELECT key, account, state, {', '.join(DIMENSIONS)}, {charged} FROM reservations")
    table = {row["key"]: tuple(row)[1:] for row in rows}
    journal = {
        key: (h.account, h.state, *h.amounts.to_dict().values(), *h.charged.to_dict().values())
        for key, h in replay.holds.items()
    }
    return _pair("reservation", journal, table)


def _leases(db: sqlite3.Connection, replay: _Replay) -> list[_Row]:
    table = {row["request_id"]: row["state"] for row in db.execute("SELECT request_id, state FROM leases")}
    return _pair("lease", dict(replay.leases), table)
