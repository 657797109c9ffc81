"""When a call may start: the limits of the whole organisation, whose turn it is, and pauses after losses.

Promises:
- Over any span of t seconds the calls that start are at most `requests_per_minute * (1 + t / 60)`, and the tokens
  settled are at most those of a full bucket, its refill and what the calls under way used above their estimate.
- At most `concurrent_calls` are under way.
- Fair between researchers: among those who wait the one that has used least goes first, by tokens that count; within
  one researcher the order of arrival holds. Somebody who comes late gets no credit for the time before.
- During a pause nothing starts; after answers were lost in a row, one call at a time until one is answered.

A bucket holds one minute's worth. A call starts when no bucket is empty and takes its estimate; when it ends the
difference to what it used is taken or given back, so that a bucket may go below zero and then delays the next call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cluster.config import Gateway

MINUTE = 60.0
MOST_IN_A_ROW = 5
FIRST_PAUSE_S = 60.0
GROWTH = 2.0
LONGEST_PAUSE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call is expected to take from the buckets of input and output tokens."""

    input: float
    output: float


@dataclass(slots=True)
class _Bucket:
    """`level` tokens at time `at`; one minute refills it."""

    capacity: float
    level: float
    at: float

    def refill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.capacity / MINUTE)
        self.at = max(self.at, now)

    def wait(self, least: float) -> float:
        """Seconds until it holds `least`."""
        return max(0.0, (least - self.level) * MINUTE / self.capacity)


@dataclass(slots=True)
class _Queue:
    """One researcher's waiting calls and its virtual time: what it has used."""

    used: float = 0.0
    waiting: deque[tuple[str, Estimate]] = field(default_factory=deque)


class RateLimits:
    """Who may start a call, and when: a pure state machine that is told the time."""

    def __init__(self, settings: Gateway, now: float) -> None:
        self._requests = _full(settings.requests_per_minute, now)
        self._input = _full(settings.input_tokens_per_minute, now)
        self._output = _full(settings.output_tokens_per_minute, now)
        self._places = settings.concurrent_calls
        self._queues: dict[str, _Queue] = {}
        self._running: dict[str, tuple[str, Estimate]] = {}
        self._paused_until = now
        self.one_at_a_time = False
        self._floor = 0.0

    def enqueue(self, ticket: str, researcher: str, estimate: Estimate) -> None:
        """Add a call that wants to start."""
        queue = self._queues.setdefault(researcher, _Queue())
        if not queue.waiting and not any(owner == researcher for owner, _ in self._running.values()):
            queue.used = max(queue.used, self._floor)
        queue.waiting.append((ticket, estimate))

    def withdraw(self, ticket: str) -> None:
        """Remove a call that waits no longer."""
        for queue in self._queues.values():
            queue.waiting = deque(entry for entry in queue.waiting if entry[0] != ticket)

    def start_due(self, now: float) -> list[str]:
        """Start what may start now; the tickets in order."""
        started: list[str] = []
        while self._delay(now) <= 0 and len(self._running) < self._most:
            waiting = [(queue.used, name) for name, queue in self._queues.items() if queue.waiting]
            if not waiting:
                break
            self._floor, name = min(waiting)
            queue = self._queues[name]
            ticket, estimate = queue.waiting.popleft()
            self._take(queue, 1.0, estimate.input, estimate.output)
            self._running[ticket] = (name, estimate)
            started.append(ticket)
        return started

    def end(self, ticket: str, used: Estimate, now: float) -> None:
        """Note that a call has ended and what it used."""
        name, estimate = self._running.pop(ticket)
        self._refill(now)
        self._take(self._queues[name], 0.0, used.input - estimate.input, used.output - estimate.output)

    def pause_all(self, seconds: float, now: float) -> None:
        """Start nothing for so long."""
        self._paused_until = max(self._paused_until, now + seconds)

    def next_start(self, now: float) -> float | None:
        """Seconds after which to ask `start_due` again; `None` when only an end or a new call can change anything."""
        if not any(queue.waiting for queue in self._queues.values()) or len(self._running) >= self._most:
            return None
        return self._delay(now)

    @property
    def _most(self) -> int:
        return 1 if self.one_at_a_time else self._places

    @property
    def running(self) -> int:
        """Calls under way."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    def _take(self, queue: _Queue, requests: float, tokens_in: float, tokens_out: float) -> None:
        self._requests.level -= requests
        self._input.level -= tokens_in
        self._output.level -= tokens_out
        queue.used += (
            requests / self._requests.capacity + tokens_in / self._input.capacity + tokens_out / self._output.capacity
        )

    def _refill(self, now: float) -> None:
        for bucket in (self._requests, self._input, self._output):
            bucket.refill(now)

    def _delay(self, now: float) -> float:
        """Seconds until the buckets and the pause let a call start."""
        self._refill(now)
        least = ((self._requests, 1.0), (self._input, 1.0), (self._output, 1.0))
        waits = [bucket.wait(level) for bucket, level in least]
        return max(self._paused_until - now, *waits, 0.0)


def _full(capacity: int, now: float) -> _Bucket:
    return _Bucket(float(capacity), float(capacity), now)


class CircuitBreaker:
    """How long nobody asks when answers are paid for and lost one after another, whoever asked. Pure.

    Promise: without an answer in between, at most `MOST_IN_A_ROW` answers and those that were under way are lost before
    the first pause, and one in each pause after it (then one call runs at a time). `pauses` are those since the last
    answer.
    """

    def __init__(self) -> None:
        self.in_a_row = 0
        self.pauses = 0
        self._until = float("-inf")

    def record_loss(self, now: float) -> float | None:
        """Count an answer that was paid for and lost; seconds without calls from `now` on, `None` when all may go on.

        What is lost during a pause was under way before it and makes it no longer.
        """
        self.in_a_row += 1
        if self.in_a_row < MOST_IN_A_ROW or now < self._until:
            return None
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * GROWTH**self.pauses)
        self.pauses += 1
        self._until = now + pause
        return pause

    def record_answer(self) -> None:
        """Begin to count anew: an answer arrived."""
        self.in_a_row = self.pauses = 0
        self._until = float("-inf")

    def to_dict(self, now: float) -> dict[str, float]:
        """`in_a_row`, and `paused_seconds` that are left of a pause."""
        return {"in_a_row": self.in_a_row, "paused_seconds": max(0.0, self._until - now)}


@dataclass(slots=True)
class AdmittedCall:
    """A call that is under way; what it used is set before it ends (`used` is the estimate until then)."""

    used: Estimate


class RateLimiter:
    """Calls wait here until it is their turn."""

    def __init__(
        self,
        settings: Gateway,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limits, self._breaker = RateLimits(settings, clock()), CircuitBreaker()
        self._clock, self._sleep = clock, sleep
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def admit(self, ticket: str, researcher: str, estimate: Estimate) -> AsyncIterator[AdmittedCall]:
        """Wait for the call's turn; it is under way while the context lasts. `ticket` is unique among living calls."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        self._limits.enqueue(ticket, researcher, estimate)
        self._start_waiting()
        try:
            await future
        except asyncio.CancelledError:
            if self._waiting.pop(ticket, None) is None:  # its turn has come already
                self._limits.end(ticket, Estimate(0, 0), self._clock())
            else:
                self._limits.withdraw(ticket)
            self._start_waiting()
            raise
        call = AdmittedCall(estimate)
        try:
            yield call
        finally:
            self._limits.end(ticket, call.used, self._clock())
            self._start_waiting()

    def pause_all(self, seconds: float) -> None:
        """Start nothing for so long: the endpoint said so."""
        self._limits.pause_all(seconds, self._clock())

    def record_loss(self) -> float | None:
        """Count an answer that was paid for and lost; seconds of the pause that begins with it, if one does."""
        seconds = self._breaker.record_loss(self._clock())
        if seconds is not None:
            self.pause_all(seconds)
            self._limits.one_at_a_time = True
        return seconds

    def record_answer(self) -> None:
        """An answer arrived: as many calls at a time as may be."""
        self._breaker.record_answer()
        self._limits.one_at_a_time = False

    @property
    def losses_in_a_row(self) -> int:
        """Answers that were paid for and lost since the last that arrived."""
        return self._breaker.in_a_row

    @property
    def pauses(self) -> int:
        """Pauses since the last answer."""
        return self._breaker.pauses

    def status(self) -> dict[str, Any]:
        """Calls that are `running` and `waiting`, and `losses` in a row."""
        losses = self._breaker.to_dict(self._clock())
        return {"running": self._limits.running, "waiting": self._limits.waiting, "losses": losses}

    def _start_waiting(self) -> None:
        """Start every call whose turn has come, and come back when the next one's does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        for ticket in self._limits.start_due(now):
            future = self._waiting.pop(ticket)
            if not future.done():  # else it was cancelled, and its caller, who has not run since, gives the place back
                future.set_result(None)
        delay = self._limits.next_start(now)
        if delay is not None:
            self._timer = asyncio.create_task(self._start_later(delay + 0.001))

    async def _start_later(self, seconds: float) -> None:
        await self._sleep(seconds)
        self._timer = None
        self._start_waiting()
