"""Limits of the whole organisation and whose turn it is: a pure state machine with an injected clock.

Promises:
- Over any span of t seconds the calls that start are at most `requests_per_minute * (1 + t / 60)`, and the tokens
  settled are at most those of a full bucket, its refill and what the calls under way used above their estimate.
- At most `concurrent_calls` are under way.
- Fair between researchers: among those who wait the one that has used least goes first, by tokens that count; within
  one researcher the order of arrival holds. Somebody who comes late gets no credit for the time before.
- While the machine is paused (the endpoint said so) nothing starts; while it is `careful`, one call at a time.

A bucket holds one minute's worth. A call starts when no bucket is empty and takes its estimate; when it ends the
difference to what it used is taken or given back, so that a bucket may go below zero and then delays the next call.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cluster.config import Gateway

MINUTE = 60.0


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


class Limits:
    """Who may start a call, and when."""

    def __init__(self, settings: Gateway, now: float) -> None:
        self._requests = _full(settings.requests_per_minute, now)
        self._input = _full(settings.input_tokens_per_minute, now)
        self._output = _full(settings.output_tokens_per_minute, now)
        self._places = settings.concurrent_calls
        self._queues: dict[str, _Queue] = {}
        self._running: dict[str, tuple[str, Estimate]] = {}
        self._paused_until = now
        self.careful = False
        self._floor = 0.0

    def ask(self, ticket: str, researcher: str, estimate: Estimate) -> None:
        """A call wants to start."""
        queue = self._queues.setdefault(researcher, _Queue())
        if not queue.waiting and not any(owner == researcher for owner, _ in self._running.values()):
            queue.used = max(queue.used, self._floor)
        queue.waiting.append((ticket, estimate))

    def withdraw(self, ticket: str) -> None:
        """A call that waits no longer."""
        for queue in self._queues.values():
            queue.waiting = deque(entry for entry in queue.waiting if entry[0] != ticket)

    def start(self, now: float) -> list[str]:
        """The tickets that start now, in order."""
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
        """A call has ended and used so much."""
        name, estimate = self._running.pop(ticket)
        self._refill(now)
        self._take(self._queues[name], 0.0, used.input - estimate.input, used.output - estimate.output)

    def pause(self, seconds: float, now: float) -> None:
        """Nothing starts for so long."""
        self._paused_until = max(self._paused_until, now + seconds)

    def next_start(self, now: float) -> float | None:
        """Seconds after which to ask `start` again; `None` when only an end or a new call can change anything."""
        if not any(queue.waiting for queue in self._queues.values()) or len(self._running) >= self._most:
            return None
        return self._delay(now)

    @property
    def _most(self) -> int:
        return 1 if self.careful else self._places

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
