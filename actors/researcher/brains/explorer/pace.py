"""How fast things go and what is left: what an explorer knows of its means when it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.researcher.types import Observation

HURRY = 2.5
"""With less time than this many submissions take, a researcher brings in what it has."""
MIN_SECONDS = 1.0
OVERRUN = 0.5
"""Share of its duration that a board entry must still have: a running one is finished after a stop, and counts."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Answers and GPU seconds left (`None`: no cap), seconds left, and how long the last submissions took."""

    answers: int | None
    gpu_seconds: float | None
    seconds: float | None
    dev_seconds: float
    board_seconds: float

    @classmethod
    def of(cls, observation: Observation) -> Pace:
        """The pace at an observation; durations come from the time left at the turns around a submission."""
        budget = observation.seen.budget
        gpu_ms = own_left(budget, "gpu_ms")
        took: dict[str, float] = {}
        stamps = [turn.seen.seconds_left for turn in observation.history] + [observation.seen.seconds_left]
        for turn, before, after in zip(observation.history, stamps[:-1], stamps[1:], strict=True):
            tiers = [str(d.call.args.get("tier", "dev")) for d in turn.done if d.call.name == "submit" and d.result.ok]
            if tiers and before is not None and after is not None:
                took[tiers[-1]] = max(0.0, before - after)
        dev = took.get("dev", 0.0)
        return cls(
            answers=0 if "answers" in budget.get("exhausted", ()) else own_left(budget, "answers"),
            gpu_seconds=None if gpu_ms is None else gpu_ms / 1000,
            seconds=observation.seen.seconds_left,
            dev_seconds=dev,
            board_seconds=took.get("board", dev),
        )

    @property
    def can_score_dev(self) -> bool:
        """True if a DEV answer is affordable and would come in time."""
        return self._fits(self.dev_seconds)

    @property
    def can_score_board(self) -> bool:
        """True if a BOARD answer is affordable and worth starting; nothing has to be done with it any more."""
        return self._fits(OVERRUN * self.board_seconds)

    @property
    def hurry(self) -> bool:
        """True if the end is near."""
        return self.seconds is not None and self.seconds < HURRY * max(self.dev_seconds, self.board_seconds)

    def _fits(self, needed: float) -> bool:
        in_time = self.seconds is None or self.seconds > max(MIN_SECONDS, needed)
        return in_time and (self.answers is None or self.answers > 0)


def own_left(budget: dict[str, Any], dimension: str) -> int | None:
    """What the researcher's own cap leaves, whatever others hold of the campaign's; `None` without a cap."""
    cap = (budget.get("caps") or {}).get(dimension)
    if cap is None:
        return None
    used = sum(int((budget.get(part) or {}).get(dimension, 0)) for part in ("spent", "reserved"))
    return max(0, int(cap) - used)
