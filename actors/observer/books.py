"""The ledger as its journal tells it: accounts, reservations and spending over time, replayed from the first event.

Promise: `replay` applies the ledger's own rules to every event (known account, one end per reservation, never more than
was reserved, never above a cap anywhere up to the root) and reports each event that breaks one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.journal import Event
from cluster.money import DIMENSIONS, Amounts, Caps


@dataclass(frozen=True, slots=True)
class Account:
    """An account with all that was spent and is reserved on it and below it; `opened_seq` is its journal event."""

    name: str
    parent: str | None
    caps: Caps
    spent: Amounts = field(default_factory=Amounts)
    reserved: Amounts = field(default_factory=Amounts)
    opened_seq: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation: `state` is held, settled or released; `ended_seq` is the event that ended it."""

    key: str
    account: str
    amounts: Amounts
    note: str
    reserved_seq: int
    state: str = "held"
    charged: Amounts = field(default_factory=Amounts)
    ended_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """An event of the scheduler's journal that breaks a rule of the ledger."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Spending:
    """The campaign's bill after a settlement: micro-dollars in all, at a time."""

    at_us: int
    usd: int
    seq: int


@dataclass(slots=True)
class Books:
    """The ledger after a replay."""

    accounts: dict[str, Account] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    spending: list[Spending] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def chain(self, account: str) -> Iterator[str]:
        """The account and its ancestors that are known, root last."""
        at: str | None = account
        seen: set[str] = set()
        while at is not None and at in self.accounts and at not in seen:
            seen.add(at)
            yield at
            at = self.accounts[at].parent

    def spent(self, account: str) -> Amounts:
        """What was charged to an account and those below it; nothing for an unknown one."""
        found = self.accounts.get(account)
        return Amounts() if found is None else found.spent

    def total(self) -> Amounts:
        """What the whole campaign was charged."""
        total = Amounts()
        for account in self.accounts.values():
            if account.parent is None:
                total = total + account.spent
        return total

    def usd_at(self, at_us: int) -> int:
        """The bill at a time, micro-dollars."""
        usd = 0
        for entry in self.spending:
            if entry.at_us > at_us:
                break
            usd = entry.usd
        return usd


def replay(events: Sequence[Event]) -> Books:
    """The books after all ledger events among `events`, in order; events of other kinds are passed over."""
    books = Books()
    steps = {"account_opened": _open, "reserved": _reserve, "settled": _settle, "released": _release}
    for event in events:
        step = steps.get(event.kind)
        if step is None:
            continue
        try:
            reason = step(books, event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"a {event.kind} event that lacks what it needs: {error!r}"
        if reason is not None:
            books.faults.append(Fault(event.seq, reason))
    return books


def _open(books: Books, event: Event) -> str | None:
    name, parent = str(event.payload["account"]), event.payload.get("parent")
    if name in books.accounts:
        return f"account {name} is opened a second time"
    books.accounts[name] = Account(name, parent, Caps.from_dict(event.payload["caps"]), opened_seq=event.seq)
    return None if parent is None or parent in books.accounts else f"account {name} has an unknown parent {parent}"


def _reserve(books: Books, event: Event) -> str | None:
    key, account = str(event.payload["key"]), str(event.payload["account"])
    amounts = Amounts.from_dict(event.payload["amounts"])
    if key in books.reservations:
        return f"reservation {key} is made a second time"
    books.reservations[key] = Reservation(key, account, amounts, str(event.payload.get("note", "")), event.seq)
    if account not in books.accounts:
        return f"reservation {key} is on an unknown account {account}"
    if amounts.negative():
        return f"reservation {key} is negative"
    return _shift(books, account, Amounts(), amounts)


def _settle(books: Books, event: Event) -> str | None:
    charged = Amounts.from_dict(event.payload["amounts"])
    known, reason = _end(books, event, "settled", charged)
    if known is None:
        return reason
    fault = _shift(books, known.account, charged, Amounts() - known.amounts)
    books.spending.append(Spending(event.at_us, books.total().usd, event.seq))
    if charged.negative() or (known.amounts - charged).negative():
        return f"settlement of {known.key} charges {_show(charged)}, reserved were {_show(known.amounts)}"
    return fault


def _release(books: Books, event: Event) -> str | None:
    known, reason = _end(books, event, "released", Amounts())
    return reason if known is None else _shift(books, known.account, Amounts(), Amounts() - known.amounts)


def _end(books: Books, event: Event, state: str, charged: Amounts) -> tuple[Reservation | None, str | None]:
    key = str(event.payload["key"])
    known = books.reservations.get(key)
    if known is None:
        return None, f"{state} {key}, which was never reserved"
    if known.state != "held":
        return None, f"{state} {key}, which was {known.state} before (event {known.ended_seq})"
    if event.payload.get("account", known.account) != known.account:
        return None, f"{state} {key} on account {event.payload['account']}, reserved on {known.account}"
    books.reservations[key] = replace(known, state=state, charged=charged, ended_seq=event.seq)
    return known, None


def _shift(books: Books, account: str, spent: Amounts, reserved: Amounts) -> str | None:
    fault = None
    for name in books.chain(account):
        old = books.accounts[name]
        new = replace(old, spent=old.spent + spent, reserved=old.reserved + reserved)
        books.accounts[name] = new
        above = new.caps.exceeded_by(new.spent + new.reserved)
        if above is not None:
            held = getattr(new.spent + new.reserved, above)
            fault = f"account {name} is above its cap in {above}: {held} of {getattr(new.caps, above)}"
    return fault


def _show(amounts: Amounts) -> str:
    parts: list[Any] = [f"{d} {getattr(amounts, d)}" for d in DIMENSIONS if getattr(amounts, d)]
    return ", ".join(parts) or "nothing"
