"""When a researcher has to end: a pure function of its balance, its time and its turns."""

from __future__ import annotations

from typing import Any

END_DONE = "the brain is done"
END_STOPPED = "stopped by the director"
END_TURNS = "all turns are used"
END_TIME = "the time is over"
END_BUDGET = "the budget is exhausted"
END_BRAIN_FAILED = "the brain could not decide"
NEEDED = {"usd": "dollars", "gpu_ms": "GPU time", "wall_ms": "wall time"}
"""Dimensions without which nothing more can be tried; without answers a brain may still learn."""


def ending(budget: dict[str, Any], seconds_left: float | None, turn: int, max_turns: int, stopped: bool) -> str:
    """Why turn number `turn` must be the last, or "" when it need not be.

    `budget` is a balance as `Account.balance` gives it: `exhausted` lists dimensions that are spent for good.
    """
    if stopped:
        return END_STOPPED
    gone = [word for dimension, word in NEEDED.items() if dimension in budget.get("exhausted", ())]
    if gone:
        return f"{END_BUDGET}: no {', no '.join(gone)} left"
    if seconds_left is not None and seconds_left <= 0:
        return END_TIME
    return END_TURNS if turn >= max_turns else ""
