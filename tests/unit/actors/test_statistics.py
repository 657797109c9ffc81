"""Statistics: agreement with known values, with the bootstrap, and coverage of the truth."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from actors.evaluator.statistics import (
    accuracy,
    bootstrap_pgr,
    compare,
    detectable,
    estimate_pgr,
    holm,
    over_items,
    over_seeds,
    shrink,
)
from actors.evaluator.statistics.gap import fieller
from actors.evaluator.statistics.variance import Hits, Part, pooled


def draw(
    rng: np.random.Generator, seeds: int, items: int, levels: tuple[float, float, float], sd: float = 0.12
) -> tuple[Hits, Hits, Hits]:
    """Student, weak and ceiling hits: a shared item difficulty, a shared teacher effect, coin flips."""
    hard = rng.normal(0, 0.8, items)
    teacher = rng.normal(0, sd, (seeds, 1))

    def hits(level: float, effect: npt.NDArray[np.float64]) -> Hits:
        return np.asarray(rng.random((len(effect), items)) < stats.norm.cdf(level + effect + hard))

    own = rng.normal(0, sd, (seeds, 1))
    student, weak = hits(levels[0], 0.7 * teacher + 0.7 * own), hits(levels[1], teacher)
    return student, weak, hits(levels[2], rng.normal(0, 0.3 * sd, (3, 1)))


def expected(level: float, spread: float) -> float:
    """Accuracy over infinitely many seeds and items."""
    return float(stats.norm.cdf(level / math.sqrt(1 + 0.64 + spread**2)))


def true_pgr(levels: tuple[float, float, float], sd: float = 0.12) -> float:
    transfer, weak, ceiling = (
        expected(level, s) for level, s in zip(levels, (0.7 * math.sqrt(2) * sd, sd, 0.3 * sd), strict=True)
    )
    return (transfer - weak) / (ceiling - weak)


def test_seed_variance_is_that_of_the_mean() -> None:
    values = np.array([0.7, 0.72, 0.68, 0.74])
    part = over_seeds(values)
    assert part.variance == pytest.approx(stats.sem(values) ** 2)
    assert part.df == 3


def test_item_variance_without_groups_is_that_of_the_mean_and_single_groups_change_nothing() -> None:
    values = np.random.default_rng(0).random(50)
    assert over_items(values).variance == pytest.approx(stats.sem(values) ** 2)
    assert over_items(values, np.arange(50)).variance == pytest.approx(over_items(values).variance)


def test_items_that_share_a_prompt_count_as_one_draw() -> None:
    values = np.random.default_rng(1).random(40)
    repeated, groups = np.repeat(values, 4), np.repeat(np.arange(40), 4)
    clustered = over_items(repeated, groups)
    assert clustered.variance == pytest.approx(over_items(values).variance)
    assert clustered.variance > 3 * over_items(repeated).variance


def test_satterthwaite_gives_welchs_degrees_of_freedom() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 8), rng.normal(0, 3, 5)
    part = pooled([over_seeds(a), over_seeds(b)])
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert part.df == pytest.approx(welch.df)
    assert (a.mean() - b.mean()) / math.sqrt(part.variance) == pytest.approx(welch.statistic)


def test_one_seed_gives_no_interval() -> None:
    hits = np.ones((1, 20), bool)
    assert math.isnan(accuracy(hits).low)
    assert compare(hits, ~hits).p == 1.0
    ceiling = np.vstack([hits, hits])
    assert estimate_pgr(hits, ~hits, ceiling).method == "one seed"


def test_delta_interval_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(3)
    student, weak, ceiling = draw(rng, 10, 1000, (0.8, 0.5, 1.6))
    found = estimate_pgr(student, weak, ceiling)
    assert found.method == "delta"
    low, high = np.percentile(bootstrap_pgr(student, weak, ceiling, rng, draws=1000), [2.5, 97.5])
    assert found.value == pytest.approx((low + high) / 2, abs=0.03)
    assert (found.high - found.low) / (high - low) == pytest.approx(1.15, abs=0.25)


def test_fieller_agrees_with_delta_when_the_gap_is_sure_and_is_none_when_it_is_not() -> None:
    sure = fieller(0.1, 0.2, (1e-6, 0.0, 1e-6), 1.96)
    assert sure == pytest.approx((0.5 - 0.01096, 0.5 + 0.01096), abs=1e-4)
    assert fieller(0.01, 0.02, (1e-3, 0.0, 1e-3), 1.96) is None


def test_a_small_gap_is_reported_by_fieller_or_as_undefined() -> None:
    rng = np.random.default_rng(4)
    methods = {estimate_pgr(*draw(rng, 5, 200, (0.6, 0.5, 0.5 + gap))).method for gap in (0.02, 0.3) for _ in range(12)}
    assert methods >= {"fieller", "undefined"}


def test_no_gap_means_no_pgr() -> None:
    rng = np.random.default_rng(5)
    student, weak, ceiling = draw(rng, 5, 300, (0.9, 1.5, 0.3))
    found = estimate_pgr(student, weak, ceiling)
    assert math.isnan(found.value)
    assert not found.defined


@pytest.mark.parametrize(("seeds", "student"), [(5, 0.55), (5, 1.3), (10, 0.75), (16, 0.75)])
def test_interval_covers_the_truth_in_about_95_of_100_worlds(seeds: int, student: float) -> None:
    """Seeded, 250 worlds, for small and large PGR."""
    levels, worlds = (student, 0.5, 1.6), 250
    rng = np.random.default_rng(seeds)
    truth = true_pgr(levels)
    found = [estimate_pgr(*draw(rng, seeds, 600, levels)) for _ in range(worlds)]
    covered = sum(one.low <= truth <= one.high for one in found)
    assert 0.925 * worlds <= covered <= 0.995 * worlds


def test_an_interval_over_seeds_alone_would_cover_too_little() -> None:
    """Why items are counted: 16 seeds on 200 items agree with each other about the wrong accuracy."""
    worlds, sd = 200, 0.05
    rng = np.random.default_rng(7)
    truth, both, seeds_only = expected(0.5, sd), 0, 0
    for _ in range(worlds):
        _, hits, _ = draw(rng, 16, 200, (0.75, 0.5, 1.6), sd)
        found = accuracy(hits)
        both += found.low <= truth <= found.high
        per_seed = hits.mean(axis=1)
        seeds_only += abs(per_seed.mean() - truth) <= stats.t.ppf(0.975, 15) * stats.sem(per_seed)
    assert both >= 0.92 * worlds
    assert seeds_only <= 0.75 * worlds


def test_paired_test_rarely_calls_equal_methods_different_and_finds_a_real_difference() -> None:
    rng = np.random.default_rng(6)
    false = found = 0
    for _ in range(200):
        a, weak, _ = draw(rng, 10, 400, (0.7, 0.5, 1.6))
        teacher = weak.mean(axis=1, keepdims=True)
        b = rng.random(a.shape) < np.clip(a.mean(axis=0) + 0 * teacher, 0, 1)
        false += compare(a, b).p < 0.05
        better = a | (rng.random(a.shape) < 0.2)
        found += compare(better, a).p < 0.05
    assert false <= 14
    assert found >= 195


def test_pairing_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="pair"):
        compare(np.ones((2, 3), bool), np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="pair"):
        estimate_pgr(np.ones((2, 3), bool), np.ones((3, 3), bool), np.ones((2, 3), bool))


def test_holm_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(8)
    for count in (1, 2, 7, 30):
        raw = rng.random(count) ** 3
        assert holm(raw.tolist()) == pytest.approx(multipletests(raw, method="holm")[1])
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []


def test_the_detectable_difference_is_found_in_four_of_five_simulated_tests() -> None:
    rng, seeds, sd = np.random.default_rng(9), 6, 0.05
    for tests in (1, 10):
        shift = detectable(sd / math.sqrt(seeds), seeds - 1, tests)
        drawn = rng.normal(shift, sd, (4000, seeds))
        p = stats.ttest_1samp(drawn, 0.0, axis=1, alternative="greater").pvalue
        assert float((p < 0.05 / tests).mean()) == pytest.approx(0.8, abs=0.025)
    assert math.isnan(detectable(math.nan, 4))
    assert detectable(0.0, 4) == 0.0


def test_detectable_differences_agree_with_the_published_table() -> None:
    """For a standard error of .055 PGR (16 seeds): one test .14, Holm over 10 tests .20, over 300 .26."""
    found = [detectable(0.055, 60, tests) for tests in (1, 10, 300)]
    assert found == pytest.approx([0.14, 0.20, 0.26], abs=0.015)


def test_shrinking_takes_the_luck_out_of_the_best_of_many() -> None:
    """300 equal methods: the highest mean looks .17 better than it is; shrunken it hardly differs from the others."""
    rng = np.random.default_rng(10)
    values, ses = rng.normal(0.3, 0.06, 300), np.full(300, 0.06)
    found = shrink(values.tolist(), ses.tolist())
    assert values.max() - 0.3 > 0.15
    assert max(one.value for one in found) - 0.3 < 0.05
    assert {one.rank for one in found} == {1}


def test_a_precise_better_method_leads_an_imprecise_lucky_one() -> None:
    lucky, solid, *rest = shrink([0.80, 0.70, 0.30, 0.32, 0.28, 0.31], [0.25, 0.02, 0.02, 0.02, 0.02, 0.02])
    assert solid.value > lucky.value
    assert solid.rank == 1
    assert {one.rank for one in rest} == {2}
    assert [one.rank for one in shrink([0.1], [0.5])] == [1]
    assert shrink([], []) == []
    with pytest.raises(ValueError, match="standard errors"):
        shrink([0.1], [])


def test_no_spread_at_all_is_certain() -> None:
    assert pooled([Part(0.0, 3), Part(0.0, 9)]).df == 3
    found = compare(np.ones((3, 5), bool), np.zeros((3, 5), bool))
    assert (found.p, found.low, found.high, found.z) == (0.0, 1.0, 1.0, math.inf)
