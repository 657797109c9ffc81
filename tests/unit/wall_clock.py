"""A wall clock that a test steps, as NTP, an operator or a resumed machine does. Monotonic clocks go on as they are."""

from __future__ import annotations

import time

import pytest

HOUR = 3600
STEPS = (-HOUR, HOUR, 10 * 365 * 24 * HOUR)


class WallClock:
    """Stands in for `time.time` and `time.time_ns`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._shift = 0
        real, real_ns = time.time, time.time_ns
        patch.setattr(time, "time", lambda: real() + self._shift)
        patch.setattr(time, "time_ns", lambda: real_ns() + self._shift * 10**9)

    def step(self, seconds: int) -> None:
        self._shift += seconds
