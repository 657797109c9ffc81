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
- Of one key at most `MOST_LOSSES` answers are paid for and lost (see `billing`); and when they are lost one after
  another, over all callers, nobody calls for a while (see `CircuitBreaker`). A loss that costs nothing, as of a model
  without a price per token, counts for neither.

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

from actors.gateway.billing import Attempt, AttemptStore, Billing
from actors.gateway.client import ModelAnswer
from actors.gateway.endpoint import Transport
from actors.gateway.meters import Meters
from actors.gateway.pricing import tariff_table
from actors.gateway.rate_limiter import Estimate, RateLimiter
from actors.gateway.recorder import RecordError
from actors.gateway.requests import Body, Parts, RequestParser
from actors.gateway.retries import AttemptFailedError, Failure, backoff_seconds, next_wait
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig
from cluster.errors import Reason, RefusedError
from cluster.observing import Sink
from cluster.storage import StorageError
from cluster.store import Store

log = logging.getLogger(__name__)
MOST_KEY = 200
ROOM_S = 1.0
"""How soon an answer that found no room on disk is written again."""


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
        self.attempts = AttemptStore(store)
        self._settings, self._seed = config.gateway, config.seed
        self._meters = Meters(sink)
        self.billing = Billing(ledger, self.attempts, tariff_table(config), self._meters)
        self._parser = RequestParser()
        self._transport = transport
        self._clock, self._sleep = clock, sleep
        self._rate_limiter = RateLimiter(config.gateway, clock, sleep)
        self._calls: dict[str, tuple[str, asyncio.Task[ModelAnswer]]] = {}  # with who asked
        self._closed = False

    async def call(self, key: str, researcher: str, request: dict[str, Any]) -> ModelAnswer:
        """As `GatewayClient.call`."""
        if not isinstance(key, str) or not 0 < len(key) <= MOST_KEY:
            raise RefusedError(Reason.BAD_REQUEST, f"key: expected 1 to {MOST_KEY} characters", {"field": "key"})
        await self.billing.finish_stale()
        asker, task = self._calls.get(key, (self.attempts.asker(key) or researcher, None))
        if asker != researcher:
            raise RefusedError(Reason.BAD_REQUEST, f"key: {key!r} is another caller's", {"field": "key"})
        if task is None:
            task = asyncio.create_task(self._call(key, researcher, request))
            self._calls[key] = (researcher, task)
            task.add_done_callback(lambda _: self._calls.pop(key, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Take no more calls, break off those under way and bring their attempts to an end."""
        self._closed = True
        tasks = [task for _, task in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.billing.finish_stale()
        await self._transport.close()

    def status(self) -> dict[str, Any]:
        """Calls that run and wait, `losses` in a row, tallies since the start, what the transport says of itself."""
        return {**self._rate_limiter.status(), **self._meters.to_dict(), **self._transport.status()}

    async def _call(self, key: str, researcher: str, request: dict[str, Any]) -> ModelAnswer:
        """The recorded answer, or a new one."""
        message = self._recorded_answer(key)
        if message is None:
            if self._closed:
                raise RefusedError(Reason.UNAVAILABLE, "the gateway is closing")
            try:
                message = await self._obtain(key, researcher, request)
            except RefusedError as error:
                self._meters.count_refusal(error.reason)
                raise
        return ModelAnswer(message, self.attempts.charged(key))

    def _recorded_answer(self, key: str) -> dict[str, Any] | None:
        try:
            return self.attempts.answer(key)
        except RecordError as error:
            raise RefusedError(Reason.UNAVAILABLE, str(error)) from error

    async def _obtain(self, key: str, researcher: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer's message, after as many attempts as it takes, and as may be made."""
        body, parts = self._parser.parse(request)
        self.billing.check_model(body.model)
        self.billing.check_losses(key)
        attempt: Attempt | None = None
        try:
            for tries in range(1, self._settings.attempts + 1):
                if attempt is None:
                    attempt = await self.billing.reserve(key, researcher, body, parts)
                try:
                    message = await self._send(attempt, tries, body, parts)
                    await self.billing.settle_answer(attempt)
                    return message
                except AttemptFailedError as error:
                    failure = error.failure
                if not await self.billing.settle_failure(attempt, failure):
                    attempt = None
                    self.billing.check_losses(key, f": {failure.message}")
                seconds = next_wait(failure, tries, self._settings, self._jitter(key, tries))
                if seconds is None:
                    break
                self._meters.count_retry(researcher, failure.reason)
                await self._sleep(seconds)
            if attempt is not None:
                await self.billing.finish(attempt)
            more: dict[str, Any] = {**failure.detail, "attempts": tries}
            raise RefusedError(failure.reason, f"{failure.message} (attempts: {tries})", more)
        finally:
            if attempt is not None:
                self.billing.abandon(attempt)

    def _jitter(self, key: str, tries: int) -> random.Random:
        return random.Random(f"{self._seed}/{key}/{tries}")

    async def _send(self, attempt: Attempt, tries: int, body: Body, parts: Parts) -> dict[str, Any]:
        """One attempt, when its turn has come; its answer is kept and its charge is due."""
        guess = self._meters.guess(attempt.researcher)
        async with self._rate_limiter.admit(attempt.reservation, attempt.researcher, guess) as admitted:
            self.attempts.mark_sent(attempt)
            started = self._clock()
            try:
                message = await self._transport.send(
                    attempt.key, body, parts, lambda usage: self.billing.note_usage(attempt, usage, body, parts)
                )
            except AttemptFailedError as error:
                if not error.failure.billed:
                    admitted.used = Estimate(0.0, 0.0)
                self._slow_down(attempt, tries, error.failure)
                raise
            self._rate_limiter.record_answer()
            seconds = self._clock() - started
            charge = self.billing.charge_of(attempt, message, parts)
            await self._keep(lambda: self.attempts.record_answer(attempt, charge, parts, message, round(seconds, 3)))
            self._parser.remember(parts)
            admitted.used = self._meters.count_answer(attempt.researcher, charge.tokens, charge.usd, seconds)
        return message

    async def _keep(self, write: Callable[[], None]) -> None:
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
            jitter = self._jitter(attempt.key, tries)
            self._rate_limiter.pause_all(backoff_seconds(failure, tries, self._settings, jitter))
        seconds = self._rate_limiter.record_loss() if failure.billed and attempt.reserved else None
        if seconds is None:
            return
        losses = self._rate_limiter.losses_in_a_row
        log.warning(
            "%d answers in a row were lost and paid for; %g s without calls: %s", losses, seconds, failure.message
        )
        if self._rate_limiter.pauses == 1:  # told once until an answer arrives
            self.attempts.record_pause(losses, seconds, failure.message)
