"""What the gateway remembers of its calls: one row per attempt that holds money, one per key that was answered.

An attempt goes `open` (its reservation is being made) -> `sent` (the request may have left) -> `due` (what it costs is
decided) -> `closed` (the ledger knows). Each step is one transaction with its journal event, made before the act that
it announces; so after a crash the state says what may have happened:
- `open`: nothing left; its reservation is released.
- `sent`: the vendor may charge for it, and nobody knows the answer any more. It becomes due at the most that it can
  still cost: the input that the stream had told (else the bound) and all of `max_tokens`.
- `due`: the charge stands here; the ledger is told again, which is harmless.
What may be forgotten when power fails, not when a process dies, is what the stream told of an attempt under way (which
then counts as dearer) and that the ledger knows (it is told again).
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from actors.gateway import recorder
from actors.gateway.pricing import Tokens
from actors.gateway.recorder import Parts
from cluster.journal import Journal
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
