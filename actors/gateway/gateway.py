"""The gateway's plain class: one call from its reservation to its settlement.

Promises, for any interleaving, failure and crash:
- A key is answered once: its first answer is kept before anybody hears it, and given again from then on.
- Nothing is sent that is not reserved: no account exceeds a cap. What an attempt costs is decided and written down
  once, and the ledger is told until it knows. An attempt that certainly cost nothing is released; one whose end is
  unknown is charged with the most that it can have cost.
- An answer is settled before it is given. When the ledger does not hear of it, the answer is given all the same, and
  the ledger is told before anybody reserves again.
- An answer is charged its usage. One that tells none is charged at its worst, and one that tells of a tier, speed or
  region without a price says so in its event (`inexact`).
- A call that was refused leaves no reservation behind.
- Of one key at most `MOST_LOSSES` answers are paid for and lost; and when they are lost one after another, over all
  callers, nobody calls for a while (see `CircuitBreaker`). A loss that costs nothing, as of a model without a price per
  token, counts for neither.

What a crash cannot tell: how an attempt ended that was sent and whose answer was not yet kept. It is charged at its
worst, and the same key, when it is asked again, is a new attempt with a reservation of its own. So the vendor may
have been paid twice for one key, and the ledger then says so.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors.gateway.billing import Attempt, Billing, Book
from actors.gateway.client import ModelAnswer
from actors.gateway.endpoint import Transport
from actors.gateway.meters import Meters
from actors.gateway.pricing import Tariff, Tokens, billed, tariff_table, tokens_of, unpriced
from actors.gateway.rate_limiter import Estimate, RateLimiter
from actors.gateway.recorder import RecordError
from actors.gateway.requests import HIDDEN_TOKENS, Body, Parts, RequestParser, asks_long_cache
from actors.gateway.retries import AttemptFailedError, Failure, after, pause
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig
from cluster.errors import AarError, Reason, RefusedError
from cluster.observing import Sink
from cluster.storage import StorageError
from cluster.store import Store

log = logging.getLogger(__name__)
MOST_KEY = 200
UNTOLD = "the answer tells no usage: charged at its worst"
ROOM_S = 1.0
"""How soon an answer that found no room on disk is written again."""
MOST_LOSSES = 2
"""Answers under one key that may be paid for and lost: a cut connection is bad luck twice, and then a reason."""


class Gateway:
    """Calls models for researchers. Every public method may be called at any time."""

    def __init__(
        self,
        store: Store,
        config: CampaignConfig,
        ledger: SchedulerClient,
        transport: Transport,
        sink: Sink | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.book = Book(store)
        self._billing = Billing(ledger, self.book)
        self._settings, self._seed = config.gateway, config.seed
        self._tariffs = tariff_table(config)
        self._parser = RequestParser()
        self._transport = transport
        self._clock, self._sleep = clock, sleep
        self._rate_limiter = RateLimiter(config.gateway, clock, sleep)
        self._meters = Meters(sink)
        self._calls: dict[str, tuple[str, asyncio.Task[ModelAnswer]]] = {}  # with who asked
        self._mine: set[str] = set()
        self._untidy = True
        self._tidying = asyncio.Lock()
        self._closed = False

    async def call(self, key: str, researcher: str, request: dict[str, Any]) -> ModelAnswer:
        """As `GatewayClient.call`."""
        if not isinstance(key, str) or not 0 < len(key) <= MOST_KEY:
            raise RefusedError(Reason.BAD_REQUEST, f"key: expected 1 to {MOST_KEY} characters", {"field": "key"})
        if self._untidy or self._tidying.locked():
            await self.tidy()
        asker, task = self._calls.get(key, (self.book.asker(key) or researcher, None))
        if asker != researcher:
            raise RefusedError(Reason.BAD_REQUEST, f"key: {key!r} is another caller's", {"field": "key"})
        if task is None:
            task = asyncio.create_task(self._call(key, researcher, request))
            self._calls[key] = (researcher, task)
            task.add_done_callback(lambda _: self._calls.pop(key, None))
        return await asyncio.shield(task)

    async def tidy(self) -> None:
        """Bring attempts that nobody carries to their end: those of a gateway that died, or of calls that broke off."""
        async with self._tidying:
            self._untidy = False
            try:
                for stale in self.book.live():
                    attempt = self.book.attempt(stale.reservation)
                    if attempt.reservation not in self._mine:
                        await self._finish(attempt)
            except BaseException:
                self._untidy = True
                raise

    async def close(self) -> None:
        """Take no more calls, break off those under way and bring their attempts to an end."""
        self._closed = True
        tasks = [task for _, task in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.tidy()
        await self._transport.close()

    def status(self) -> dict[str, Any]:
        """Calls that run and wait, `losses` in a row, tallies since the start, what the transport says of itself."""
        return {**self._rate_limiter.status(), **self._meters.to_dict(), **self._transport.status()}

    async def _finish(self, attempt: Attempt) -> None:
        """From wherever an attempt stands to its end."""
        if attempt.state == "open":
            await self._billing.release(attempt, "it cost nothing")
        if attempt.state == "sent":
            self._lose(attempt, "its end is unknown")
        if attempt.state in ("sent", "due"):
            await self._billing.settle(self.book.attempt(attempt.reservation))

    async def _call(self, key: str, researcher: str, request: dict[str, Any]) -> ModelAnswer:
        message = self._known(key)
        if message is None:
            if self._closed:
                raise RefusedError(Reason.UNAVAILABLE, "the gateway is closing")
            try:
                message = await self._obtain(key, researcher, request)
            except RefusedError as error:
                self._meters.refused(error.reason)
                raise
        return ModelAnswer(message, self.book.charged(key))

    def _known(self, key: str) -> dict[str, Any] | None:
        try:
            return self.book.answer(key)
        except RecordError as error:
            raise RefusedError(Reason.UNAVAILABLE, str(error)) from error

    async def _obtain(self, key: str, researcher: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer's message, after as many attempts as it takes, and as may be made."""
        body, parts = self._parser.take(request)
        tariff = self._tariffs.get(body.model)
        if tariff is None:
            known = ", ".join(sorted(self._tariffs))
            detail = {"model": body.model}
            raise RefusedError(Reason.UNKNOWN_MODEL, f"{body.model!r} has no price; priced are: {known}", detail)
        self._bound_losses(key)
        attempt: Attempt | None = None
        try:
            for tries in range(1, self._settings.attempts + 1):
                if attempt is None:
                    attempt = await self._reserve(key, researcher, body, parts, tariff)
                try:
                    message = await self._attempt(attempt, tries, body, parts, tariff)
                    await self._settle(attempt)
                    return message
                except AttemptFailedError as error:
                    failure = error.failure
                attempt = await self._settle_failed(attempt, failure)
                if attempt is None:
                    self._bound_losses(key, f": {failure.message}")
                wait = after(failure, tries, self._settings, self._chance(key, tries))
                if wait is None:
                    break
                self._meters.retried(researcher, failure.reason)
                await self._sleep(wait.seconds)
            if attempt is not None:
                await self._finish(self.book.attempt(attempt.reservation))
            more: dict[str, Any] = {**failure.detail, "attempts": tries}
            raise RefusedError(failure.reason, f"{failure.message} (attempts: {tries})", more)
        finally:
            if attempt is not None:
                self._leave_attempt(attempt.reservation)

    def _bound_losses(self, key: str, why: str = "") -> None:
        lost = self.book.losses(key)
        if lost >= MOST_LOSSES:
            charged = self.book.charged(key)
            text = (
                f"{lost} answers to {key} cost {charged} micro-dollars and were lost on the way; no more are asked for"
            )
            raise RefusedError(Reason.LOST, f"{text}{why}", {"lost": lost, "charged": charged})

    def _chance(self, key: str, tries: int) -> random.Random:
        return random.Random(f"{self._seed}/{key}/{tries}")

    def _leave_attempt(self, reservation: str) -> None:
        """Nobody carries the attempt any more; unless it is closed, the next call brings it to its end."""
        self._mine.discard(reservation)
        self._untidy = self._untidy or self.book.attempt(reservation).state != "closed"

    async def _settle(self, attempt: Attempt) -> None:
        """Tell the ledger of an answer's charge; one that does not hear is told again before the next call."""
        try:
            await self._billing.settle(self.book.attempt(attempt.reservation))
        except AarError as error:
            log.warning("%s: the ledger is told with the next call: %s", attempt.key, error)

    async def _reserve(self, key: str, researcher: str, body: Body, parts: Parts, tariff: Tariff) -> Attempt:
        """A new attempt with its worst case set aside, after all that is owed was settled."""
        if self._untidy:
            await self.tidy()
        worst = worst_case(body, self.book.counted_bound(parts), parts, tariff)
        attempt = self.book.open(key, researcher, body.model, tariff.cost(worst), worst)
        self._mine.add(attempt.reservation)
        try:
            await self._billing.reserve(attempt)
        except BaseException:
            self._leave_attempt(attempt.reservation)
            raise
        return attempt

    async def _attempt(self, attempt: Attempt, tries: int, body: Body, parts: Parts, tariff: Tariff) -> dict[str, Any]:
        long_cache = asks_long_cache(parts.marks)

        def begun(usage: dict[str, Any]) -> None:
            told = tokens_of(usage, long_cache)
            if not told.prompt or body.compacts:
                return
            try:
                self.book.begun(attempt, told + Tokens(output=max(0, body.max_tokens - told.output)))
            except StorageError as error:  # the bound stays as it was reserved; the answer is what matters
                log.warning("%s: its smaller bound is not written down: %s", attempt.key, error)

        guess = self._meters.guess(attempt.researcher)
        async with self._rate_limiter.admit(attempt.reservation, attempt.researcher, guess) as admitted:
            self.book.sent(attempt)
            started = self._clock()
            try:
                message = await self._transport.send(attempt.key, body, parts, begun)
            except AttemptFailedError as error:
                if not error.failure.billed:
                    admitted.used = Estimate(0.0, 0.0)
                self._slow_down(attempt, tries, error.failure)
                raise
            self._rate_limiter.record_answer()
            seconds = self._clock() - started
            told = billed(message, long_cache)
            tokens = self.book.attempt(attempt.reservation).worst if told is None else told
            charge = tariff.cost(tokens)
            inexact = [UNTOLD] * (told is None) + (unpriced(message) if charge else [])
            if inexact:
                log.warning("%s: the charge may not be the vendor's: %s", attempt.key, "; ".join(inexact))
            facts = (tokens, charge, parts, message, round(seconds, 3), inexact)
            await self._kept(lambda: self.book.answered(attempt, *facts))
            self._parser.learn(parts)
            admitted.used = self._meters.answered(attempt.researcher, tokens, charge, seconds)
        return message

    async def _kept(self, write: Callable[[], None]) -> None:
        """Write down what was paid for, as soon as there is room: nobody is to pay for it twice."""
        while True:
            try:
                write()
                return
            except StorageError as error:
                log.warning("an answer waits to be written down: %s", error)
                await self._sleep(ROOM_S)

    def _slow_down(self, attempt: Attempt, tries: int, failure: Failure) -> None:
        """Everybody waits when the endpoint wants fewer calls, and when its answers are paid for and lost."""
        if failure.throttled:
            self._rate_limiter.pause_all(pause(failure, tries, self._settings, self._chance(attempt.key, tries)))
        seconds = self._rate_limiter.record_loss() if failure.billed and attempt.reserved else None
        if seconds is None:
            return
        losses = self._rate_limiter.losses_in_a_row
        log.warning(
            "%d answers in a row were lost and paid for; %g s without calls: %s", losses, seconds, failure.message
        )
        if self._rate_limiter.pauses == 1:
            self.book.paused(losses, seconds, failure.message)

    async def _settle_failed(self, attempt: Attempt, failure: Failure) -> Attempt | None:
        """The attempt itself when its reservation serves again, or `None` when it was charged."""
        if not failure.billed:
            self.book.unsent(attempt)
            return attempt
        self._lose(self.book.attempt(attempt.reservation), failure.message)
        await self._billing.settle(self.book.attempt(attempt.reservation))
        self._leave_attempt(attempt.reservation)
        return None

    def _lose(self, attempt: Attempt, why: str) -> None:
        charge = self._tariffs[attempt.model].cost(attempt.worst)
        self.book.lost(attempt, attempt.worst, charge, why)
        self._meters.lost(attempt.researcher, attempt.worst, charge)


def worst_case(body: Body, counted: int | None, parts: Parts, tariff: Tariff) -> Tokens:
    """At least as many tokens of each kind as a call can use, at the dearest kind of input that it can cause.

    `counted`: a bound from an earlier call that this one continues. A compaction by the endpoint reads the history once
    more and writes a summary.
    """
    bound = body.input_bound if counted is None else min(body.input_bound, counted + HIDDEN_TOKENS)
    passes = 2 if body.compacts else 1
    kind = tariff.dearest_input(bool(parts.marks), asks_long_cache(parts.marks))
    return Tokens(**{kind: passes * bound}) + Tokens(output=passes * body.max_tokens)
