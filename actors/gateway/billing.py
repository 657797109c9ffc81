"""The money of calls: attempts with their reservations, what they cost, and the gateway's side of the ledger.

An attempt goes `open` (its reservation is being made) -> `sent` (the request may have left) -> `due` (what it costs is
decided) -> `closed` (the ledger knows). Each step is one transaction with its journal event, made before the act that
it announces; so after a crash the state says what may have happened:
- `open`: nothing left; its reservation is released.
- `sent`: the vendor may charge for it, and nobody knows the answer any more. It becomes due at the most that it can
  still cost: the input that the stream had told (else the bound) and all of `max_tokens`.
- `due`: the charge stands here; the ledger is told again, which is harmless.
What may be forgotten when power fails, not when a process dies, is what the stream told of an attempt under way (which
then counts as dearer) and that the ledger knows (it is told again).

The ledger charges no more than was reserved. Reservations are upper bounds, so that more never happens as far as the
bound holds; should a vendor count more, the rest is charged as a spending of its own, to the researcher or else to the
campaign. What neither can pay stands in the gateway's journal as `unpaid`, and verification says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from actors.gateway import recorder
from actors.gateway.meters import Meters
from actors.gateway.pricing import Tariff, Tokens, billed, tokens_of, unpriced
from actors.gateway.requests import HIDDEN_TOKENS, Body, Parts, asks_long_cache
from actors.gateway.retries import Failure
from actors.scheduler.client import SchedulerClient
from cluster.errors import AarError, Reason, RefusedError
from cluster.journal import Journal
from cluster.money import Amounts
from cluster.names import CAMPAIGN, tokens_account
from cluster.storage import StorageError
from cluster.store import Store

log = logging.getLogger(__name__)
MOST_LOSSES = 2
"""Answers under one key that may be paid for and lost: a cut connection is bad luck twice, and then a reason."""
UNTOLD = "the answer tells no usage: charged at its worst"
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


@dataclass(frozen=True, slots=True)
class Charge:
    """What an attempt used, and what that costs in micro-dollars; `inexact`: why the vendor's bill may be another."""

    tokens: Tokens
    usd: int
    inexact: tuple[str, ...] = ()


class AttemptStore:
    """Attempts, answers and their journal in one store: a row per attempt, and one per key that was answered."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.journal = Journal(store)
        store.schema(DDL + recorder.DDL)

    def open_attempt(self, key: str, researcher: str, model: str, reserved: int, worst: Tokens) -> Attempt:
        """Add an attempt under a key, with the next number."""
        with self.store.transaction() as db:
            row = db.execute("SELECT COUNT(*) AS n FROM attempts WHERE key = ?", (key,)).fetchone()
            number = int(row["n"])
            name = f"tokens/{key}/{number}"
            values = (name, key, number, researcher, model, "open", reserved, json.dumps(worst.to_dict()), 0)
            db.execute("INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        return self.attempt(name)

    def mark_sent(self, attempt: Attempt) -> None:
        """From now on the vendor may charge for it."""
        self._change_state(attempt, "open", "sent")

    def mark_unsent(self, attempt: Attempt) -> None:
        """The endpoint refused it without a charge: its reservation serves the next try."""
        self._change_state(attempt, "sent", "open")

    def lower_worst_case(self, attempt: Attempt, worst: Tokens) -> None:
        """The stream has told the input: what the attempt can still cost is less than its reservation."""
        with self.store.transaction(lazy=True) as db:
            row = (json.dumps(worst.to_dict()), attempt.reservation)
            db.execute("UPDATE attempts SET worst = ? WHERE reservation = ?", row)

    def record_loss(self, attempt: Attempt, charge: Charge, why: str) -> None:
        """Its end is unknown: the most that it can have used is due."""
        with self.store.transaction() as db:
            self._make_due(db, attempt, charge.usd)
            self._journal_charge("attempt_lost", attempt, charge, {"why": why[:400]})

    def record_answer(
        self, attempt: Attempt, charge: Charge, parts: Parts, message: dict[str, Any], seconds: float
    ) -> None:
        """Keep the answer; what it costs is due."""
        with self.store.transaction() as db:
            answer = recorder.store(db, attempt.key, attempt.researcher, parts, message)
            self._make_due(db, attempt, charge.usd)
            stop = message.get("stop_reason")
            more = {"request": parts.request, "answer": answer, "stop_reason": stop, "seconds": seconds}
            if charge.inexact:
                more["inexact"] = list(charge.inexact)
            self._journal_charge("call_answered", attempt, charge, more)

    def record_pause(self, losses: int, seconds: float, why: str) -> None:
        """Note that nobody calls for so long, after so many answers in a row were paid for and lost."""
        self.journal.append("calls_paused", {"losses": losses, "seconds": seconds, "why": why[:400]})

    def mark_closed(self, attempt: Attempt) -> None:
        """The ledger knows."""
        with self.store.transaction(lazy=True) as db:
            db.execute("UPDATE attempts SET state = 'closed' WHERE reservation = ?", (attempt.reservation,))

    def _change_state(self, attempt: Attempt, old: State, new: State) -> None:
        with self.store.transaction() as db:
            done = db.execute(
                "UPDATE attempts SET state = ? WHERE reservation = ? AND state = ?", (new, attempt.reservation, old)
            )
            if done.rowcount != 1:
                raise RuntimeError(f"attempt {attempt.reservation} is not {old}")

    @staticmethod
    def _make_due(db: sqlite3.Connection, attempt: Attempt, charge: int) -> None:
        query = "UPDATE attempts SET state = 'due', charge = ? WHERE reservation = ? AND state = 'sent'"
        if db.execute(query, (charge, attempt.reservation)).rowcount != 1:
            raise RuntimeError(f"attempt {attempt.reservation} is not under way")

    def _journal_charge(self, kind: str, attempt: Attempt, charge: Charge, more: dict[str, Any]) -> None:
        payload = {
            "reservation": attempt.reservation,
            "key": attempt.key,
            "researcher": attempt.researcher,
            "model": attempt.model,
            "tokens": charge.tokens.to_dict(),
            "reserved": attempt.reserved,
            "usd": charge.usd,
            **more,
        }
        self.journal.append(kind, payload)

    def attempt(self, reservation: str) -> Attempt:
        """The attempt as it stands. Raises `KeyError`."""
        rows = self.store.query("SELECT * FROM attempts WHERE reservation = ?", (reservation,))
        if not rows:
            raise KeyError(reservation)
        return _attempt(rows[0])

    def unclosed(self) -> list[Attempt]:
        """All attempts that are not closed."""
        query = "SELECT * FROM attempts WHERE state != 'closed' ORDER BY key, number"
        return [_attempt(row) for row in self.store.query(query)]

    def charged(self, key: str) -> int:
        """What all attempts under a key cost, micro-dollars."""
        rows = self.store.query("SELECT COALESCE(SUM(charge), 0) AS usd FROM attempts WHERE key = ?", (key,))
        return int(rows[0]["usd"])

    def losses(self, key: str) -> int:
        """The number of attempts under a key that was not answered which were paid for."""
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
    """Reserves, charges and settles attempts; every step may be repeated."""

    def __init__(
        self, ledger: SchedulerClient, attempts: AttemptStore, tariffs: dict[str, Tariff], meters: Meters
    ) -> None:
        self._ledger, self._attempts, self._tariffs, self._meters = ledger, attempts, tariffs, meters
        self._carried: set[str] = set()
        """Reservations of attempts that a call brings to their end."""
        self._stale = True
        """True if there may be attempts that no call carries, since a gateway died or a call broke off."""
        self._finishing = asyncio.Lock()

    def check_model(self, model: str) -> None:
        """Refuse a model without a price. Raises `RefusedError` "unknown_model"."""
        if model not in self._tariffs:
            known = ", ".join(sorted(self._tariffs))
            raise RefusedError(Reason.UNKNOWN_MODEL, f"{model!r} has no price; priced are: {known}", {"model": model})

    def check_losses(self, key: str, why: str = "") -> None:
        """Refuse a key whose answers were paid for and lost too often. Raises `RefusedError` "lost"."""
        lost = self._attempts.losses(key)
        if lost >= MOST_LOSSES:
            charged = self._attempts.charged(key)
            text = (
                f"{lost} answers to {key} cost {charged} micro-dollars and were lost on the way; no more are asked for"
            )
            raise RefusedError(Reason.LOST, f"{text}{why}", {"lost": lost, "charged": charged})

    async def reserve(self, key: str, researcher: str, body: Body, parts: Parts) -> Attempt:
        """A new attempt with its worst case set aside, after all that is owed was settled.

        Raises `RefusedError` "over_budget"; its detail is in micro-dollars.
        """
        await self.finish_stale()
        tariff = self._tariffs[body.model]
        worst = worst_case(body, self._attempts.counted_bound(parts), parts, tariff)
        attempt = self._attempts.open_attempt(key, researcher, body.model, tariff.cost(worst), worst)
        self._carried.add(attempt.reservation)
        try:
            await self._reserve_in_ledger(attempt)
        except BaseException:
            self.abandon(attempt)
            raise
        return attempt

    async def _reserve_in_ledger(self, attempt: Attempt) -> None:
        note, account = f"call of {attempt.model}"[:400], tokens_account(attempt.researcher)
        try:
            await self._ledger.reserve(attempt.reservation, account, Amounts(usd=attempt.reserved), note, "gateway")
        except RefusedError as error:
            self._attempts.mark_closed(attempt)
            if error.reason is not Reason.OVER_BUDGET:
                raise
            kept = {name: error.detail[name] for name in ("account", "dimension", "left")}
            detail = {**kept, "asked": attempt.reserved}
            text = (
                f"the call may cost up to {detail['asked']} micro-dollars, "
                f"{detail['left']} are left on {detail['account']}; a shorter history or fewer max_tokens cost less"
            )
            raise RefusedError(Reason.OVER_BUDGET, text, detail, error.exceeded) from None

    def note_usage(self, attempt: Attempt, usage: dict[str, Any], body: Body, parts: Parts) -> None:
        """Lower what an attempt can still cost, now that its stream has told the input side of the bill."""
        told = tokens_of(usage, asks_long_cache(parts.marks))
        if not told.prompt or body.compacts:
            return
        try:
            worst = told + Tokens(output=max(0, body.max_tokens - told.output))
            self._attempts.lower_worst_case(attempt, worst)
        except StorageError as error:  # the bound stays as it was reserved; the answer is what matters
            log.warning("%s: its smaller bound is not written down: %s", attempt.key, error)

    def charge_of(self, attempt: Attempt, message: dict[str, Any], parts: Parts) -> Charge:
        """What an answer costs by its usage, or at its worst when it tells none."""
        told = billed(message, asks_long_cache(parts.marks))
        tokens = self._attempts.attempt(attempt.reservation).worst if told is None else told
        usd = self._tariffs[attempt.model].cost(tokens)
        inexact = [UNTOLD] * (told is None) + (unpriced(message) if usd else [])
        if inexact:
            log.warning("%s: the charge may not be the vendor's: %s", attempt.key, "; ".join(inexact))
        return Charge(tokens, usd, tuple(inexact))

    async def settle_answer(self, attempt: Attempt) -> None:
        """Tell the ledger of an answer's charge; one that does not hear is told again before the next call."""
        try:
            await self._settle(self._attempts.attempt(attempt.reservation))
        except AarError as error:
            log.warning("%s: the ledger is told with the next call: %s", attempt.key, error)

    async def settle_failure(self, attempt: Attempt, failure: Failure) -> bool:
        """Charge a failed attempt if the vendor may have; return whether its reservation serves the next try."""
        if not failure.billed:
            self._attempts.mark_unsent(attempt)
            return True
        self._charge_worst_case(self._attempts.attempt(attempt.reservation), failure.message)
        await self._settle(self._attempts.attempt(attempt.reservation))
        self.abandon(attempt)
        return False

    def abandon(self, attempt: Attempt) -> None:
        """Carry an attempt no longer; unless it is closed, `finish_stale` brings it to its end."""
        self._carried.discard(attempt.reservation)
        self._stale = self._stale or self._attempts.attempt(attempt.reservation).state != "closed"

    async def finish_stale(self) -> None:
        """Bring the attempts that no call carries to their end."""
        async with self._finishing:
            if not self._stale:
                return
            self._stale = False
            try:
                for attempt in self._attempts.unclosed():
                    if attempt.reservation not in self._carried:
                        await self.finish(attempt)
            except BaseException:
                self._stale = True
                raise

    async def finish(self, attempt: Attempt) -> None:
        """From wherever an attempt stands to its end."""
        attempt = self._attempts.attempt(attempt.reservation)
        if attempt.state == "open":
            await self._release(attempt, "it cost nothing")
        if attempt.state == "sent":
            self._charge_worst_case(attempt, "its end is unknown")
        if attempt.state in ("sent", "due"):
            await self._settle(self._attempts.attempt(attempt.reservation))

    def _charge_worst_case(self, attempt: Attempt, why: str) -> None:
        charge = Charge(attempt.worst, self._tariffs[attempt.model].cost(attempt.worst))
        self._attempts.record_loss(attempt, charge, why)
        self._meters.count_loss(attempt.researcher, charge.tokens, charge.usd)

    async def _settle(self, attempt: Attempt) -> None:
        """Charge what is due and free the rest."""
        paid = min(attempt.charge, attempt.reserved)
        await self._ledger.settle(attempt.reservation, Amounts(usd=paid), f"call of {attempt.model}"[:400])
        rest = attempt.charge - paid
        if rest and not await self._charge_overrun(attempt, rest):
            with self._attempts.store.transaction():
                if self._attempts.attempt(attempt.reservation).state == "due":
                    self._attempts.journal.append("unpaid", {"reservation": attempt.reservation, "usd": rest})
                self._attempts.mark_closed(attempt)
        else:
            self._attempts.mark_closed(attempt)

    async def _charge_overrun(self, attempt: Attempt, usd: int) -> bool:
        """Charge it to who can pay; one key for both, so that a repeated step finds who has paid."""
        for account in (tokens_account(attempt.researcher), CAMPAIGN):
            try:
                key = f"{attempt.reservation}/over"
                await self._ledger.spend(key, account, Amounts(usd=usd), "more than was reserved")
            except RefusedError:
                continue
            return True
        return False

    async def _release(self, attempt: Attempt, why: str) -> None:
        """Free the reservation of an attempt that cost nothing."""
        try:
            await self._ledger.release(attempt.reservation, why[:400])
        except RefusedError as error:
            if error.reason is not Reason.UNKNOWN_RESERVATION:
                raise
        self._attempts.mark_closed(attempt)


def worst_case(body: Body, counted: int | None, parts: Parts, tariff: Tariff) -> Tokens:
    """At least as many tokens of each kind as a call can use, at the dearest kind of input that it can cause.

    `counted`: a bound from an earlier call that this one continues. A compaction by the endpoint reads the history once
    more and writes a summary.
    """
    bound = body.input_bound if counted is None else min(body.input_bound, counted + HIDDEN_TOKENS)
    passes = 2 if body.compacts else 1
    kind = tariff.dearest_input(bool(parts.marks), asks_long_cache(parts.marks))
    return Tokens(**{kind: passes * bound}) + Tokens(output=passes * body.max_tokens)
