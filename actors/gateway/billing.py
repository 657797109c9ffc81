"""The gateway's side of the ledger: reserve, settle, release, and what to do when a call cost more than was reserved.

The ledger charges no more than was reserved. Reservations are upper bounds, so that more never happens as far as the
bound holds; should a vendor count more, the rest is charged as a spending of its own, to the researcher or else to the
campaign. What neither can pay stands in the gateway's journal as `unpaid`, and verification says so.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from actors.gateway import recorder
from actors.gateway.pricing import Tokens
from actors.gateway.requests import Parts
from actors.scheduler.client import SchedulerClient
from cluster.errors import Reason, RefusedError
from cluster.journal import Journal
from cluster.money import Amounts
from cluster.names import CAMPAIGN, tokens_account
from cluster.store import Store

State = Literal["open", "sent", "due", "closed"]
DDL = """
CREATE TABLE IF NOT EXISTS attempts (
    reservation TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    researcher TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'sent', 'due', 'closed')),
    reserved INTEGER NOT NULL,
    worst TEXT NOT NULL,
    charge INTEGER NOT NULL DEFAULT 0,
    UNIQUE (key, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attempts_live ON attempts (state) WHERE state != 'closed';
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One reservation and what became of it: `reserved` and `charge` in micro-dollars, `worst` the most tokens it can
    have used as far as that is known.
    """

    reservation: str
    key: str
    number: int
    researcher: str
    model: str
    state: State
    reserved: int
    worst: Tokens
    charge: int


class Book:
    """Attempts, answers and their journal in one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.journal = Journal(store)
        store.schema(DDL + recorder.DDL)

    def open(self, key: str, researcher: str, model: str, reserved: int, worst: Tokens) -> Attempt:
        """A new attempt under a key, with the next number."""
        with self.store.transaction() as db:
            row = db.execute("SELECT COUNT(*) AS n FROM attempts WHERE key = ?", (key,)).fetchone()
            number = int(row["n"])
            name = f"tokens/{key}/{number}"
            values = (name, key, number, researcher, model, "open", reserved, json.dumps(worst.to_dict()), 0)
            db.execute("INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        return self.attempt(name)

    def sent(self, attempt: Attempt) -> None:
        """From now on the vendor may charge for it."""
        self._move(attempt, "open", "sent")

    def unsent(self, attempt: Attempt) -> None:
        """The endpoint refused it without a charge: its reservation serves the next try."""
        self._move(attempt, "sent", "open")

    def begun(self, attempt: Attempt, worst: Tokens) -> None:
        """The stream has told the input: what the attempt can still cost is less than its reservation."""
        with self.store.transaction(lazy=True) as db:
            row = (json.dumps(worst.to_dict()), attempt.reservation)
            db.execute("UPDATE attempts SET worst = ? WHERE reservation = ?", row)

    def lost(self, attempt: Attempt, tokens: Tokens, charge: int, why: str) -> None:
        """Its end is unknown: the most that it can have used is due."""
        with self.store.transaction() as db:
            self._due(db, attempt, charge)
            self._tell("attempt_lost", attempt, tokens, charge, {"why": why[:400]})

    def answered(
        self,
        attempt: Attempt,
        tokens: Tokens,
        charge: int,
        parts: Parts,
        message: dict[str, Any],
        seconds: float,
        inexact: list[str],
    ) -> None:
        """The answer is kept and what it costs is due; `inexact`: why the vendor's bill may be another."""
        with self.store.transaction() as db:
            answer = recorder.store(db, attempt.key, attempt.researcher, parts, message)
            self._due(db, attempt, charge)
            stop = message.get("stop_reason")
            more = {"request": parts.request, "answer": answer, "stop_reason": stop, "seconds": seconds}
            if inexact:
                more["inexact"] = inexact
            self._tell("call_answered", attempt, tokens, charge, more)

    def paused(self, losses: int, seconds: float, why: str) -> None:
        """So many answers in a row were paid for and lost: nobody calls for so long. Told once until one arrives."""
        self.journal.append("calls_paused", {"losses": losses, "seconds": seconds, "why": why[:400]})

    def close(self, attempt: Attempt) -> None:
        """The ledger knows."""
        with self.store.transaction(lazy=True) as db:
            db.execute("UPDATE attempts SET state = 'closed' WHERE reservation = ?", (attempt.reservation,))

    def _move(self, attempt: Attempt, old: State, new: State) -> None:
        with self.store.transaction() as db:
            done = db.execute(
                "UPDATE attempts SET state = ? WHERE reservation = ? AND state = ?", (new, attempt.reservation, old)
            )
            if done.rowcount != 1:
                raise RuntimeError(f"attempt {attempt.reservation} is not {old}")

    @staticmethod
    def _due(db: sqlite3.Connection, attempt: Attempt, charge: int) -> None:
        query = "UPDATE attempts SET state = 'due', charge = ? WHERE reservation = ? AND state = 'sent'"
        if db.execute(query, (charge, attempt.reservation)).rowcount != 1:
            raise RuntimeError(f"attempt {attempt.reservation} is not under way")

    def _tell(self, kind: str, attempt: Attempt, tokens: Tokens, charge: int, more: dict[str, Any]) -> None:
        payload = {
            "reservation": attempt.reservation,
            "key": attempt.key,
            "researcher": attempt.researcher,
            "model": attempt.model,
            "tokens": tokens.to_dict(),
            "reserved": attempt.reserved,
            "usd": charge,
            **more,
        }
        self.journal.append(kind, payload)

    def attempt(self, reservation: str) -> Attempt:
        """The attempt as it stands. Raises `KeyError`."""
        rows = self.store.query("SELECT * FROM attempts WHERE reservation = ?", (reservation,))
        if not rows:
            raise KeyError(reservation)
        return _attempt(rows[0])

    def live(self) -> list[Attempt]:
        """All attempts that are not closed."""
        query = "SELECT * FROM attempts WHERE state != 'closed' ORDER BY key, number"
        return [_attempt(row) for row in self.store.query(query)]

    def charged(self, key: str) -> int:
        """What all attempts under a key cost, micro-dollars."""
        rows = self.store.query("SELECT COALESCE(SUM(charge), 0) AS usd FROM attempts WHERE key = ?", (key,))
        return int(rows[0]["usd"])

    def losses(self, key: str) -> int:
        """How many attempts under a key that was not answered were paid for."""
        rows = self.store.query("SELECT COUNT(*) AS n FROM attempts WHERE key = ? AND charge > 0", (key,))
        return int(rows[0]["n"])

    def answer(self, key: str) -> dict[str, Any] | None:
        """The first answer under a key. Raises `RecordError` when it was changed on disk."""
        with self.store.transaction() as db:
            return recorder.load_message(db, key)

    def asker(self, key: str) -> str | None:
        """Who asked under a key first, or `None`."""
        query = "SELECT researcher FROM attempts WHERE key = ? UNION SELECT researcher FROM exchanges WHERE key = ?"
        rows = self.store.query(query, (key, key))
        return str(rows[0]["researcher"]) if rows else None

    def counted_bound(self, parts: Parts) -> int | None:
        """As `recorder.counted_bound`."""
        with self.store.transaction() as db:
            return recorder.counted_bound(db, parts)


def _attempt(row: sqlite3.Row) -> Attempt:
    return Attempt(**{**dict(row), "worst": Tokens.from_dict(json.loads(row["worst"]))})


class Billing:
    """Moves the money of attempts; every step may be repeated."""

    def __init__(self, ledger: SchedulerClient, book: Book) -> None:
        self._ledger, self._book = ledger, book

    async def reserve(self, attempt: Attempt) -> None:
        """Set the worst case aside. Raises `RefusedError` "over_budget"; its detail is in micro-dollars."""
        note = f"call of {attempt.model}"[:400]
        account = tokens_account(attempt.researcher)
        try:
            await self._ledger.reserve(attempt.reservation, account, Amounts(usd=attempt.reserved), note, "gateway")
        except RefusedError as error:
            self._book.close(attempt)
            if error.reason is not Reason.OVER_BUDGET:
                raise
            kept = {name: error.detail[name] for name in ("account", "dimension", "left")}
            detail = {**kept, "asked": attempt.reserved}
            text = (
                f"the call may cost up to {detail['asked']} micro-dollars, "
                f"{detail['left']} are left on {detail['account']}; a shorter history or fewer max_tokens cost less"
            )
            raise RefusedError(Reason.OVER_BUDGET, text, detail, error.exceeded) from None

    async def settle(self, attempt: Attempt) -> None:
        """Charge what is due and free the rest."""
        paid = min(attempt.charge, attempt.reserved)
        await self._ledger.settle(attempt.reservation, Amounts(usd=paid), f"call of {attempt.model}"[:400])
        rest = attempt.charge - paid
        if rest and not await self._overrun(attempt, rest):
            with self._book.store.transaction():
                if self._book.attempt(attempt.reservation).state == "due":
                    self._book.journal.append("unpaid", {"reservation": attempt.reservation, "usd": rest})
                self._book.close(attempt)
        else:
            self._book.close(attempt)

    async def _overrun(self, attempt: Attempt, usd: int) -> bool:
        """Charge it to who can pay; one key for both, so that a repeated step finds who has paid."""
        for account in (tokens_account(attempt.researcher), CAMPAIGN):
            try:
                key = f"{attempt.reservation}/over"
                await self._ledger.spend(key, account, Amounts(usd=usd), "more than was reserved")
            except RefusedError:
                continue
            return True
        return False

    async def release(self, attempt: Attempt, why: str) -> None:
        """Free the reservation of an attempt that cost nothing."""
        try:
            await self._ledger.release(attempt.reservation, why[:400])
        except RefusedError as error:
            if error.reason is not Reason.UNKNOWN_RESERVATION:
                raise
        self._book.close(attempt)
