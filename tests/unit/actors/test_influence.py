"""Does a student depend on which teacher it had? Shown for who learns from it, not for who works answers out."""

from __future__ import annotations

import numpy as np
import pytest

from actors.evaluator.statistics.influence import Influence, influence
from actors.evaluator.statistics.variance import Hits

N, SEEDS = 1400, 10


def teachers(seeds: int = SEEDS, n: int = N, seed: int = 1) -> Hits:
    """Teachers that share most of their errors and differ on three items in ten, as those of one labelled set do."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    return 0.6 * hard + 0.4 * rng.random((seeds, n)) < 0.6


def student(taught: Hits, share: float, skill: float = 0.8, seed: int = 2) -> Hits:
    """Right where its teacher is on a `share` of the items, else by a skill of its own."""
    rng = np.random.default_rng(seed)
    own = 0.6 * rng.random(taught.shape[1]) + 0.4 * rng.random(taught.shape) < skill
    return np.where(rng.random(taught.shape) < share, taught, own)


def found(own: Hits, taught: Hits, cluster: int = 1) -> Influence:
    return influence(own, taught, np.arange(taught.shape[1]) // cluster)


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_a_student_that_follows_its_teacher_shows_it(share: float) -> None:
    taught = teachers()
    measured = found(student(taught, share), taught)
    assert measured.shown
    assert measured.slope == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("skill", [0.55, 0.8, 0.95, 2.0])
def test_computed_answers_show_nothing_however_right_they_are(skill: float) -> None:
    taught = teachers()
    measured = [found(student(taught, 0.0, skill, seed), taught) for seed in range(20)]
    assert sum(one.shown for one in measured) <= 2
    assert "no claim without a person's review" in measured[0].says


def test_one_answer_for_all_seeds_has_no_slope_although_teachers_and_student_err_on_the_same_items() -> None:
    taught = teachers()
    same = np.tile(taught.mean(axis=0) > 0.5, (SEEDS, 1))
    assert found(same, taught).slope == pytest.approx(0.0, abs=1e-9)
    assert not found(same, taught).shown


def test_better_teachers_with_better_students_are_no_influence_by_themselves() -> None:
    rng = np.random.default_rng(5)
    skill = np.linspace(0.5, 0.9, SEEDS)[:, None]
    taught, own = rng.random((SEEDS, N)) < skill, rng.random((SEEDS, N)) < skill
    assert abs(found(own, taught).slope) < 4 * found(own, taught).se


def test_items_about_one_question_count_as_one() -> None:
    taught = np.repeat(teachers(n=N // 7), 7, axis=1)
    own = np.repeat(student(teachers(n=N // 7), 0.2), 7, axis=1)
    alone, together = found(own, taught), found(own, taught, cluster=7)
    assert together.slope == pytest.approx(alone.slope)
    assert together.se == pytest.approx(alone.se * np.sqrt(7), rel=0.1)


@pytest.mark.parametrize(
    "taught", [teachers(seeds=1), np.tile(teachers(seeds=1), (SEEDS, 1)), np.ones((SEEDS, N), bool)]
)
def test_where_teachers_do_not_differ_nothing_is_shown_and_no_limit_is_named(taught: Hits) -> None:
    measured = found(student(taught, 1.0), taught)
    assert not measured.shown
    assert measured.limit is None
