from __future__ import annotations

import pytest

from actors.researcher.retry_policy import ATTEMPTS, LONGEST_S, next_step
from actors.researcher.stall_detection import assess, idle_turns
from actors.researcher.types import ToolCall, ToolOutcome, ToolResult, Turn, TurnInput
from cluster.errors import AarError, Reason, RefusedError
from cluster.remote import UnreachableError

OWN = {"account": "campaign/researcher/01-x", "left": 1, "asked": 2}
ROOT = {"account": "campaign", "left": 1, "asked": 2}


def turn(*calls: tuple[str, dict[str, object]], **content: object) -> Turn:
    return Turn(
        0, TurnInput(), tuple(ToolOutcome(ToolCall(name, args), ToolResult(True, content)) for name, args in calls)
    )


EMPTY = turn()
READ = turn(("read_file", {"path": "a"}), text="x")


@pytest.mark.parametrize(
    ("history", "idle"),
    [
        ([], 0),
        ([EMPTY], 1),
        ([READ], 0),
        ([READ, READ, READ], 2),
        ([READ, EMPTY, READ], 2),
        ([EMPTY, READ], 0),
        ([READ, turn(("read_file", {"path": "a"}), text="y")], 0),
        ([READ, turn(("read_file", {"path": "b"}), text="x")], 0),
        ([READ, turn(("budget", {}), x=1), READ, turn(("budget", {}), x=2)], 2),
        ([turn(("bash", {"command": "ls"}), seconds=1)] + [turn(("bash", {"command": "ls"}), seconds=2)] * 3, 3),
        ([turn(("wait", {"seconds": 9}), woken_by="time", running=["run-1-0"])] * 9, 0),
        ([turn(("wait", {"seconds": 9}), woken_by="post", running=[])] * 9, 0),
        ([turn(("wait", {"seconds": 9}), woken_by="time", running=[])] * 9, 8),
    ],
)
def test_turns_in_which_nothing_happens_are_counted(history: list[Turn], idle: int) -> None:
    assert idle_turns(history) == idle


def test_a_stall_brings_a_word_then_rests_then_the_end() -> None:
    empty = [assess([READ, *[EMPTY] * n]) for n in range(10)]
    assert [s.action for s in empty] == [
        "go", "nudge", "nudge", "nudge", "pause", "nudge", "pause", "nudge", "end", "end",
    ]  # fmt: skip
    assert empty[6].seconds > empty[4].seconds
    repeated = [assess([READ] * n).action for n in range(1, 6)]
    assert repeated == ["go", "go", "nudge", "nudge", "pause"]
    assert assess([*[EMPTY] * 5, READ]).action == "go"


REPAIRABLE = [
    RefusedError(reason, "x") for reason in (Reason.UNAVAILABLE, Reason.BAD_KEY, Reason.NO_CREDIT, Reason.UNKNOWN_MODEL)
]


@pytest.mark.parametrize("error", [*REPAIRABLE, UnreachableError("x"), AarError("x"), OSError("x")])
@pytest.mark.parametrize("attempt", [0, 5, 100, 10_000])
def test_some_errors_are_waited_for_however_long_they_last(error: Exception, attempt: int) -> None:
    step = next_step(error, attempt, running=False)
    assert step.action == "wait"
    assert 0 < step.seconds <= LONGEST_S


def test_money_that_is_held_is_waited_for_and_money_that_is_spent_is_the_end() -> None:
    own, root = RefusedError(Reason.OVER_BUDGET, "x", OWN), RefusedError(Reason.OVER_BUDGET, "x", ROOT)
    assert next_step(own, 0, running=False).action == "last"
    assert next_step(own, 20, running=True).action == "wait"
    assert next_step(own, 60, running=True).action == "last"
    assert next_step(root, 7, running=False).action == "wait"
    assert next_step(root, 8, running=False).action == "last"


def test_other_refusals_end_after_a_few_attempts() -> None:
    refusal = RefusedError(Reason.BAD_REQUEST, "x")
    steps = [next_step(refusal, attempt, running=True).action for attempt in range(ATTEMPTS)]
    assert steps == ["wait"] * (ATTEMPTS - 1) + ["give_up"]


def test_an_answer_that_a_replay_lacks_is_the_end_at_once() -> None:
    assert next_step(RefusedError(Reason.NOT_RECORDED, "x"), 0, running=True).action == "give_up"
