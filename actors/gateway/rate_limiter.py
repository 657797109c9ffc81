"""The limits in asyncio: calls wait here until it is their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from actors.gateway.limits import Estimate, Limits


@dataclass(slots=True)
class Passage:
    """A call that is under way; what it used is set before it ends (`used` is the estimate until then)."""

    used: Estimate


class RateLimiter:
    """Lets calls through as the limits allow, in their order."""

    def __init__(
        self, limits: Limits, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._limits, self._clock, self._sleep = limits, clock, sleep
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def passage(self, ticket: str, researcher: str, estimate: Estimate) -> AsyncIterator[Passage]:
        """Wait for the call's turn; it is under way while the context lasts. `ticket` is unique among living calls."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        self._limits.ask(ticket, researcher, estimate)
        self._turn()
        try:
            await future
        except asyncio.CancelledError:
            if self._waiting.pop(ticket, None) is None:  # its turn has come already
                self._limits.end(ticket, Estimate(0, 0), self._clock())
            else:
                self._limits.withdraw(ticket)
            self._turn()
            raise
        passage = Passage(estimate)
        try:
            yield passage
        finally:
            self._limits.end(ticket, passage.used, self._clock())
            self._turn()

    def pause(self, seconds: float) -> None:
        """Let nobody through for so long."""
        self._limits.pause(seconds, self._clock())

    def careful(self, one_by_one: bool) -> None:
        """Let one through at a time, or as many as may be."""
        self._limits.careful = one_by_one

    @property
    def counts(self) -> dict[str, int]:
        """Calls that run and that wait."""
        return {"running": self._limits.running, "waiting": self._limits.waiting}

    def _turn(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        for ticket in self._limits.start(now):
            future = self._waiting.pop(ticket)
            if not future.done():  # else it was cancelled, and its caller, who has not run since, gives the place back
                future.set_result(None)
        delay = self._limits.next_start(now)
        if delay is not None:
            self._timer = asyncio.create_task(self._turn_in(delay + 0.001))

    async def _turn_in(self, seconds: float) -> None:
        await self._sleep(seconds)
        self._timer = None
        self._turn()
