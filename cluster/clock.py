"""Wall-clock time as integer microseconds since the Unix epoch: the only time that is stored."""

from __future__ import annotations

import time


def now_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000
