"""Time: which clock measures what.

The rule of the whole project:
- A duration inside one process (limits of steps and leases, patience, rests, rates, charges) is a difference of
  `time.monotonic()`, which nobody can step.
- A duration that outlives its process (how long a request has waited, when a claim ends) is a difference of two
  readings of one store's `cluster.steady.SteadyClock`, or of a `Mark` on disk.
- Work that counts only while somebody does it (a phase, a researcher's hours) is summed up from monotonic laps, and
  the sum is what stands on disk (`Stopwatch`, the transcript's wall time).
- Wall time (`now_us`) is for people: it dates events, posts and files. No decision and no charge hangs on it, because
  NTP, an operator or a resumed machine may step it by any amount in either direction.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now_us() -> int:
    """Microseconds since the Unix epoch: the wall clock, for people."""
    return time.time_ns() // 1000


@cache
def _boot() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment on the clock of one start of one machine: comparable with marks of other processes there."""

    boot: str
    us: int

    @classmethod
    def now(cls) -> Mark:
        """The present moment, by the clock that counts since the machine started and that nobody can set."""
        return cls(_boot(), time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)

    def until(self, later: Mark) -> int | None:
        """Microseconds from here to `later`; `None` when the machine was started anew between them."""
        passed = later.us - self.us
        return passed if later.boot == self.boot and passed >= 0 else None


class StopWatchClock:
    """Monotonic seconds since it was made, not counting those in which it was stopped."""

    def __init__(self) -> None:
        self._left_out = time.monotonic()
        self._stopped: float | None = None

    def __call__(self) -> float:
        """Seconds so far."""
        return (time.monotonic() if self._stopped is None else self._stopped) - self._left_out

    def stop(self) -> None:
        """Stand still; repeated calls do nothing."""
        self._stopped = time.monotonic() if self._stopped is None else self._stopped

    def go(self) -> None:
        """Count again; repeated calls do nothing."""
        if self._stopped is not None:
            self._left_out += time.monotonic() - self._stopped
            self._stopped = None
