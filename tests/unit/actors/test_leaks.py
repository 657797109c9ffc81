"""What an adaptive attacker takes from the real evaluator: next to nothing of BOARD, nothing of SEAL.

500 submissions against 1,263 coin flips, students that do exactly what the attacker wants: the attacks of
scripts/bench/leaks.py, which explains them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest

from actors.evaluator.evaluator import Evaluator
from cluster.errors import RefusedError
from scripts.bench.leaks import ITEMS, Arena, block_climb, guess, random_functions

SUBMISSIONS = 500
POINTS = 2.0
LUCK = 4.3
"""Three standard deviations of the accuracy of a function that knows nothing, in points."""


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory where there is such a disk: a thousand submissions are ten thousand commits."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def test_votes_and_least_squares_over_random_functions_gain_nothing_that_counts(root: Path) -> None:
    arena = Arena(root, ITEMS, SUBMISSIONS, fidelity=1.0, seed=1)
    functions, answers = random_functions(arena)
    for likes in (True, False):
        final = guess(arena, functions, answers, likes)
        assert arena.gain(final, "board") <= POINTS
        assert abs(arena.gain(final, "seal")) <= LUCK
    with pytest.raises(RefusedError, match="all 500 board answers"):
        arena.ask(arena.random(), "board")


def test_block_climbing_gains_nothing_that_counts(root: Path) -> None:
    arena = Arena(root, ITEMS, SUBMISSIONS, fidelity=1.0, seed=2)
    final = block_climb(arena)
    assert arena.gain(final, "board") <= POINTS
    assert abs(arena.gain(final, "seal")) <= LUCK


def test_the_attacked_board_does_move_for_a_method_that_is_better(root: Path) -> None:
    """The attacks above are not held off by a board that is deaf."""
    arena = Arena(root, ITEMS, 2, fidelity=1.0, seed=3)
    knows, truth = arena.start(), arena._splits.split("board").labels == 1
    knows["board"] = truth ^ (arena.rng.random(len(truth)) < 0.3)
    assert arena.ask(knows, "board")["new_best"]
    assert not arena.ask(arena.random(), "board")["new_best"]


def test_without_a_step_and_a_test_of_significance_the_same_climb_would_gain(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.evaluator.board.ladder_step", lambda submissions, items: 1e-4)
    monkeypatch.setattr("actors.evaluator.tiers.LADDER_Z", 0.0)
    arena = Arena(root, ITEMS, 120, fidelity=1.0, seed=2)
    assert arena.gain(block_climb(arena), "board") > 2 * POINTS


def test_sealed_items_are_not_touched_by_any_answer(root: Path) -> None:
    arena = Arena(root, ITEMS, 3, fidelity=1.0, seed=4)
    arena.ask(arena.random(), "board")
    arena.ask(arena.random(), "dev")
    assert not [record for record in arena.evaluator.records() if record["tier"] == "seal"]


def test_flipping_one_prediction_cannot_be_expressed() -> None:
    assert list(signature(Evaluator.submit).parameters) == ["self", "key", "researcher", "snapshot", "name", "tier"]


def test_no_call_of_the_evaluator_takes_answers_or_chooses_items() -> None:
    offered = {name: f for name, f in vars(Evaluator).items() if not name.startswith("_") and callable(f)}
    taken = {p for f in offered.values() for p in signature(f).parameters} - {"self"}
    known = {"key", "researcher", "snapshot", "name", "tier", "domain", "record_ids", "record_id"}
    assert taken == known
