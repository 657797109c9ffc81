"""When answers are paid for and lost one after another, whoever asked: how long nobody asks. Pure.

Promise: without an answer in between, at most `MOST_IN_A_ROW` answers and those that were under way are lost before the
first pause, and one in each pause after it (see `Limits.careful`).
"""

from __future__ import annotations

MOST_IN_A_ROW = 5
FIRST_PAUSE_S = 60.0
GROWTH = 2.0
LONGEST_PAUSE_S = 3600.0


class Breaker:
    """Counts losses in a row over all callers. `pauses` are those since the last answer."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.pauses = 0
        self._until = float("-inf")

    def lost(self, now: float) -> float | None:
        """An answer was paid for and lost; seconds for which nobody asks from `now` on, `None` when all may go on.

        What is lost during a pause was under way before it and makes it no longer.
        """
        self.in_a_row += 1
        if self.in_a_row < MOST_IN_A_ROW or now < self._until:
            return None
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * GROWTH**self.pauses)
        self.pauses += 1
        self._until = now + pause
        return pause

    def answered(self) -> None:
        """An answer arrived."""
        self.in_a_row = self.pauses = 0
        self._until = float("-inf")

    def to_dict(self, now: float) -> dict[str, float]:
        """`in_a_row`, and `paused_seconds` that are left of a pause."""
        return {"in_a_row": self.in_a_row, "paused_seconds": max(0.0, self._until - now)}
