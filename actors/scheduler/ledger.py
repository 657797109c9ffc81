"""Nested accounts with caps, and the reservations on them.

Promises:
- `spent + reserved <= cap` for every account and dimension, always: each change is one transaction on the account and
  all its ancestors, and the database itself refuses a row that breaks the rule.
- A reservation ends exactly once: settled (the actual is charged, never more than was reserved) or released.
- Every call is idempotent by its key: a repeated one changes nothing and gives the first answer, and one that asks for
  something else under a known key is refused.
- Each change stands in the journal, in the same transaction.

Balances of an account include those of its descendants. Amounts are the integers of `cluster.money`.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from typing import Literal

from cluster.clock import now_us
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.journal import Journal
from cluster.money import DIMENSIONS, Amounts, Balance, Caps
from cluster.store import Store

State = Literal["held", "settled", "released"]

MAX_AMOUNT = 10**15
"""Largest single amount: a thousand million dollars, or thirty thousand GPU-years."""
UNCAPPED_LIMIT = 10**18
"""What an account without a cap may hold, so that a sum never leaves the 64 bits of a column."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_MAX_TEXT = 400
_DDL = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    parent TEXT REFERENCES accounts (name),
    opened_us INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS balances (
    account TEXT NOT NULL REFERENCES accounts (name),
    dimension TEXT NOT NULL,
    cap INTEGER,
    spent INTEGER NOT NULL DEFAULT 0,
    reserved INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (account, dimension),
    CHECK (spent >= 0 AND reserved >= 0 AND (cap IS NULL OR spent + reserved <= cap))
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    key TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (name),
    holder TEXT NOT NULL,
    note TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('held', 'settled', 'released')),
    usd INTEGER NOT NULL, gpu_ms INTEGER NOT NULL, wall_ms INTEGER NOT NULL, answers INTEGER NOT NULL,
    charged_usd INTEGER NOT NULL DEFAULT 0, charged_gpu_ms INTEGER NOT NULL DEFAULT 0,
    charged_wall_ms INTEGER NOT NULL DEFAULT 0, charged_answers INTEGER NOT NULL DEFAULT 0,
    reserved_us INTEGER NOT NULL,
    ended_us INTEGER
);
CREATE INDEX IF NOT EXISTS reservations_held ON reservations (holder) WHERE state = 'held';
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was reserved under a key, and how it ended; `charged` is zero while held and when released."""

    key: str
    account: str
    holder: str
    note: str
    state: State
    amounts: Amounts
    charged: Amounts


class Ledger:
    """The accounts of one store."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        store.schema(_DDL)

    def open(self, account: str, parent: str | None, caps: Caps) -> None:
        """Open an account under `parent`; the same again changes nothing.

        Raises `RefusedError`: "malformed", "unknown_account" (the parent), "account_differs" (other parent or caps).
        """
        _check_opening(account, caps)
        with self._store.transaction() as db:
            if parent is not None and not self._exists(db, parent):
                raise _unknown(parent)
            if self._exists(db, account):
                self._check_same(db, account, parent, caps)
                return
            db.execute("INSERT INTO accounts VALUES (?, ?, ?)", (account, parent, now_us()))
            for dimension, cap in caps.to_dict().items():
                row = (account, dimension, cap)
                db.execute("INSERT INTO balances (account, dimension, cap) VALUES (?, ?, ?)", row)
            self._journal.append("account_opened", {"account": account, "parent": parent, "caps": caps.to_dict()})

    def _check_same(self, db: sqlite3.Connection, account: str, parent: str | None, caps: Caps) -> None:
        old_parent = db.execute("SELECT parent FROM accounts WHERE name = ?", (account,)).fetchone()["parent"]
        old_caps = {row["dimension"]: row["cap"] for row in _balance_rows(db, account)}
        if old_parent != parent or old_caps != caps.to_dict():
            detail = {"account": account, "parent": old_parent, "caps": old_caps}
            raise RefusedError(Reason.ACCOUNT_DIFFERS, f"account {account} is open with another parent or caps", detail)

    @staticmethod
    def _exists(db: sqlite3.Connection, account: str) -> bool:
        return db.execute("SELECT 1 FROM accounts WHERE name = ?", (account,)).fetchone() is not None

    def chain(self, account: str) -> list[str]:
        """The account and its ancestors, root last. Raises `RefusedError` "unknown_account"."""
        names: list[str] = []
        at: str | None = account
        while at is not None:
            rows = self._store.query("SELECT parent FROM accounts WHERE name = ?", (at,))
            if not rows:
                raise _unknown(at)
            names.append(at)
            at = rows[0]["parent"]
        return names

    def reserve(self, key: str, account: str, amounts: Amounts, note: str = "", holder: str = "") -> Reservation:
        """Set the worst case aside on the account and all its ancestors.

        `holder` names who will end it, for `release_holder`. A known key gives the reservation as it stands now.
        Raises `RefusedError`: "over_budget" with detail {account, dimension, cap, spent, reserved, left, asked},
        "unknown_account", "malformed", "key_reused" (the key stands for another account or other amounts).
        """
        _check_amounts(amounts)
        _check_text(key=key, note=note, holder=holder)
        with self._store.transaction() as db:
            known = self.reservation(key)
            if known is not None:
                if (known.account, known.amounts) != (account, amounts):
                    raise _reused(known)
                return known
            chain = self.chain(account)
            for name in chain:
                _check_room(db, name, amounts)
            for name in chain:
                _shift(db, name, spent=Amounts(), reserved=amounts)
            columns = (key, account, holder, note, "held", *amounts.to_dict().values(), now_us())
            db.execute(
                "INSERT INTO reservations (key, account, holder, note, state, usd, gpu_ms, wall_ms, answers,"
                " reserved_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                columns,
            )
            payload = {"key": key, "account": account, "amounts": amounts.to_dict(), "note": note, "holder": holder}
            self._journal.append("reserved", payload)
        return Reservation(key, account, holder, note, "held", amounts, Amounts())

    def settle(self, key: str, actual: Amounts, note: str = "") -> Amounts:
        """Charge the actual, free the rest; what was charged.

        In a dimension where the actual is above the reserved, the reserved is charged and an "overrun" is journaled.
        Raises `RefusedError`: "unknown_reservation", "malformed", "not_held" (released before), "key_reused" (settled
        before, with another charge).
        """
        _check_amounts(actual)
        _check_text(note=note)
        with self._store.transaction() as db:
            known = self._known(key)
            if known.state == "settled":
                if known.charged != actual.capped_by(known.amounts):
                    raise _reused(known)
                return known.charged
            if known.state == "released":
                raise RefusedError(
                    Reason.NOT_HELD, f"reservation {key} was released", {"key": key, "state": known.state}
                )
            charged = actual.capped_by(known.amounts)
            self._end(db, known, "settled", charged)
            payload = {"key": key, "account": known.account, "amounts": charged.to_dict(), "note": note}
            self._journal.append("settled", {**payload, "reserved": known.amounts.to_dict()})
            if charged != actual:
                over = {"reserved": known.amounts.to_dict(), "actual": actual.to_dict()}
                self._journal.append("overrun", {"key": key, "account": known.account, **over})
        return charged

    def release(self, key: str, note: str = "") -> Amounts:
        """Free a reservation in full, once; what it held.

        Raises `RefusedError`: "unknown_reservation", "not_held" (settled before).
        """
        _check_text(note=note)
        with self._store.transaction() as db:
            known = self._known(key)
            if known.state == "released":
                return known.amounts
            if known.state == "settled":
                raise RefusedError(
                    Reason.NOT_HELD, f"reservation {key} was settled", {"key": key, "state": known.state}
                )
            self._end(db, known, "released", Amounts())
            payload = {"key": key, "account": known.account, "amounts": known.amounts.to_dict(), "note": note}
            self._journal.append("released", payload)
        return known.amounts

    def spend(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """Reserve and settle at once; what was charged. A known key gives the first charge. Raises as `reserve`."""
        with self._store.transaction():
            known = self.reservation(key)
            if known is not None:
                if (known.account, known.amounts, known.state) != (account, amounts, "settled"):
                    raise _reused(known)
                return known.charged
            self.reserve(key, account, amounts, note)
            return self.settle(key, amounts, note)

    def spend_up_to(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """As `spend`, but of each dimension at most what is left; what was charged. Never "over_budget"."""
        _check_amounts(amounts)
        _check_text(key=key, note=note)
        asked = {"account": account, "amounts": amounts.to_dict()}
        charged = self._store.once(
            f"up to/{key}", lambda _: self._spend_what_is_left(key, account, amounts, note).to_dict(), asked=asked
        )
        return Amounts.from_dict(charged)

    def _spend_what_is_left(self, key: str, account: str, amounts: Amounts, note: str) -> Amounts:
        known = self.reservation(key)
        if known is not None:
            # Of a store that did not keep what was asked: what was reserved then was a part of it.
            if known.amounts != known.amounts.capped_by(amounts):
                raise _reused(known)
            return self.spend(key, account, known.amounts, note)
        room = {d: most for d, most in self.balance(account).left.to_dict().items() if most is not None}
        caps = Amounts(**{d: max(0, room.get(d, value)) for d, value in amounts.to_dict().items()})
        return self.spend(key, account, amounts.capped_by(caps), note)

    def release_holder(self, holder: str, note: str = "its holder died") -> list[str]:
        """Release everything that a dead holder still holds; the keys. A second call finds nothing."""
        if not holder:
            raise RefusedError(Reason.MALFORMED, "holder: expected a name, found an empty text", {"field": "holder"})
        with self._store.transaction() as db:
            query = "SELECT key FROM reservations WHERE holder = ? AND state = 'held' ORDER BY key"
            keys = [str(row["key"]) for row in db.execute(query, (holder,)).fetchall()]
            for key in keys:
                self.release(key, note)
        return keys

    def _end(self, db: sqlite3.Connection, known: Reservation, state: State, charged: Amounts) -> None:
        for name in self.chain(known.account):
            _shift(db, name, spent=charged, reserved=Amounts() - known.amounts)
        db.execute(
            "UPDATE reservations SET state = ?, charged_usd = ?, charged_gpu_ms = ?, charged_wall_ms = ?,"
            " charged_answers = ?, ended_us = ? WHERE key = ? AND state = 'held'",
            (state, *charged.to_dict().values(), now_us(), known.key),
        )

    def reservation(self, key: str) -> Reservation | None:
        """The reservation under a key, ended ones too."""
        rows = self._store.query("SELECT * FROM reservations WHERE key = ?", (key,))
        return _reservation(rows[0]) if rows else None

    def _known(self, key: str) -> Reservation:
        known = self.reservation(key)
        if known is None:
            raise RefusedError(Reason.UNKNOWN_RESERVATION, f"no reservation {key!r}", {"key": key})
        return known

    def balance(self, account: str) -> Balance:
        """An account as it stands. Raises `RefusedError` "unknown_account"."""
        chain = self.chain(account)
        rows = {name: {r["dimension"]: r for r in self._rows(name)} for name in chain}
        own = rows[account]
        left: dict[str, int | None] = {}
        for d in DIMENSIONS:
            rooms = [r[d]["cap"] - r[d]["spent"] - r[d]["reserved"] for r in rows.values() if r[d]["cap"] is not None]
            left[d] = min(rooms) if rooms else None
        caps, spent, reserved = ({d: own[d][column] for d in DIMENSIONS} for column in ("cap", "spent", "reserved"))
        return Balance(
            account=account,
            parent=chain[1] if len(chain) > 1 else None,
            caps=Caps(**caps),
            spent=Amounts(**spent),
            reserved=Amounts(**reserved),
            left=Caps(**left),
            exhausted=tuple(d for d in DIMENSIONS if any(_is_spent(r[d]) for r in rows.values())),
        )

    def _rows(self, account: str) -> list[sqlite3.Row]:
        return self._store.query("SELECT * FROM balances WHERE account = ?", (account,))

    def accounts(self) -> list[str]:
        """All account names, sorted."""
        return [str(row["name"]) for row in self._store.query("SELECT name FROM accounts ORDER BY name")]

    def totals(self) -> Amounts:
        """What was spent in all: the sum over the accounts without a parent."""
        rows = self._store.query(
            "SELECT dimension, SUM(spent) AS spent FROM balances JOIN accounts ON account = name"
            " WHERE parent IS NULL GROUP BY dimension"
        )
        return Amounts.from_dict({row["dimension"]: row["spent"] for row in rows})


def _is_spent(row: sqlite3.Row) -> bool:
    return row["cap"] is not None and row["spent"] >= row["cap"]


def _balance_rows(db: sqlite3.Connection, account: str) -> list[sqlite3.Row]:
    return db.execute("SELECT * FROM balances WHERE account = ?", (account,)).fetchall()


def _reservation(row: sqlite3.Row) -> Reservation:
    amounts = Amounts(*(row[d] for d in DIMENSIONS))
    charged = Amounts(*(row[f"charged_{d}"] for d in DIMENSIONS))
    return Reservation(row["key"], row["account"], row["holder"], row["note"], row["state"], amounts, charged)


def _check_room(db: sqlite3.Connection, account: str, asked: Amounts) -> None:
    for row in _balance_rows(db, account):
        want = getattr(asked, row["dimension"])
        cap = UNCAPPED_LIMIT if row["cap"] is None else row["cap"]
        used = row["spent"] + row["reserved"]
        if want and used + want > cap:
            detail = {
                "account": account,
                "dimension": row["dimension"],
                "cap": cap,
                "spent": row["spent"],
                "reserved": row["reserved"],
                "left": cap - used,
                "asked": want,
            }
            text = f"account {account}: {row['dimension']} asked {want}, left {cap - used} of cap {cap}"
            exceeded = LimitExceeded(row["dimension"], account, cap, used + want, "ledger")
            raise RefusedError(Reason.OVER_BUDGET, text, detail, exceeded)


def _shift(db: sqlite3.Connection, account: str, *, spent: Amounts, reserved: Amounts) -> None:
    for d in DIMENSIONS:
        more = (getattr(spent, d), getattr(reserved, d))
        if any(more):
            db.execute(
                "UPDATE balances SET spent = spent + ?, reserved = reserved + ? WHERE account = ? AND dimension = ?",
                (*more, account, d),
            )


def _check_opening(account: str, caps: Caps) -> None:
    if len(account) > 200 or not _NAME.fullmatch(account):
        message = f"account: {account!r} is not a path of letters, digits, dots, dashes and underscores"
        raise RefusedError(Reason.MALFORMED, message, {"field": "account", "value": account})
    for dimension, cap in caps.to_dict().items():
        if cap is not None and not 0 <= cap <= UNCAPPED_LIMIT:
            message = f"caps.{dimension}: {cap} is not between 0 and {UNCAPPED_LIMIT}"
            raise RefusedError(Reason.MALFORMED, message, {"field": f"caps.{dimension}", "value": str(cap)})


def _check_amounts(amounts: Amounts) -> None:
    for dimension, value in amounts.to_dict().items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_AMOUNT:
            message = f"{dimension}: {value!r} is not an integer from 0 to {MAX_AMOUNT}"
            raise RefusedError(Reason.MALFORMED, message, {"field": dimension, "value": str(value)})


def _check_text(**texts: str) -> None:
    for field, text in texts.items():
        if len(text) > _MAX_TEXT or (field == "key" and not text):
            message = f"{field}: expected 1 to {_MAX_TEXT} characters, found {len(text)}"
            raise RefusedError(Reason.MALFORMED, message, {"field": field, "length": len(text)})


def _unknown(account: str) -> RefusedError:
    return RefusedError(Reason.UNKNOWN_ACCOUNT, f"no account {account!r}", {"account": account})


def _reused(known: Reservation) -> RefusedError:
    detail = {"key": known.key, "account": known.account, "amounts": known.amounts.to_dict(), "state": known.state}
    return RefusedError(Reason.KEY_REUSED, f"key {known.key!r} already stands for another reservation", detail)
