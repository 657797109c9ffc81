"""Whether a researcher has stalled, and what to do about it: pure functions of its history.

An idle turn calls nothing, or repeats calls of one of the two turns before it and gets the same results. Idle turns in
a row first bring a word to the brain, then a pause, then a longer one, then the end. Waiting for something that runs,
or being woken by it, is not idle, however often it is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from actors.researcher.types import ToolOutcome, Turn

LOOK_BACK = 2
NUDGE_EMPTY, NUDGE_REPEATED = 1, 2
"""Idle turns from which the brain is told: an empty turn at once, a repeated call when it is repeated again."""
PAUSES = {4: 300.0, 6: 1200.0}
"""After how many idle turns the researcher rests for how many seconds."""
END_AT = 8
NO_CALL = (
    "Your last answer called no tool, so nothing happened. Go on with a tool call; `wait` waits without cost, and "
    "`finish` ends your work for good."
)
REPEATED = "You have made the same calls {count} times in a row with the same results. Try something else."
RESTED = "You were paused for a while because nothing came of your last {count} turns. Try something else."
PAUSED_TITLE = "I am paused"
"""Of the post in which a researcher says that it rests."""
END_STALLED = "it stalled: {count} turns in a row in which nothing happened"


@dataclass(frozen=True, slots=True)
class Stall:
    """What to do before the next turn; `text` is a note to the brain, or for people why it rests or ends."""

    action: Literal["go", "nudge", "pause", "end"] = "go"
    text: str = ""
    seconds: float = 0.0


def assess(history: Sequence[Turn]) -> Stall:
    """What the idle turns at the end of a history call for."""
    idle = idle_turns(history)
    if not idle:
        return Stall()
    if idle >= END_AT:
        return Stall("end", END_STALLED.format(count=idle))
    if idle in PAUSES:
        return Stall("pause", RESTED.format(count=idle), PAUSES[idle])
    if not history[-1].done:
        return Stall("nudge", NO_CALL) if idle >= NUDGE_EMPTY else Stall()
    return Stall("nudge", REPEATED.format(count=idle + 1)) if idle >= NUDGE_REPEATED else Stall()


def idle_turns(history: Sequence[Turn]) -> int:
    """How many turns at the end of a history are idle."""
    count = 0
    while count < len(history) and _idle(history, len(history) - 1 - count):
        count += 1
    return count


def _idle(history: Sequence[Turn], index: int) -> bool:
    turn = history[index]
    if not turn.done:
        return True
    if any(_fruitful(done) for done in turn.done):
        return False
    before = history[max(0, index - LOOK_BACK) : index]
    return any(_acts(turn) == _acts(other) for other in before)


def _acts(turn: Turn) -> list[tuple[object, ...]]:
    """Calls and results, without what only says how much time went by."""
    return [(d.call.name, d.call.args, d.result.ok, d.result.reason, _lasting(d)) for d in turn.done]


def _lasting(done: ToolOutcome) -> dict[str, object]:
    return {} if done.call.name == "budget" else {k: v for k, v in done.result.content.items() if k != "seconds"}


def _fruitful(done: ToolOutcome) -> bool:
    """A wait that something ended, or beside which something runs."""
    content = done.result.content
    return done.call.name == "wait" and (content.get("woken_by") in ("run", "post") or bool(content.get("running")))
