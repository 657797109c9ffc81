"""When may it be said that a method beats a baseline? Every condition alone takes the word away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.evaluator.audits import TRIALS, AuditReport, Verdict
from actors.evaluator.audits.auditor import LEASES
from actors.evaluator.estimate import check_budget, largest_lease, sealing
from actors.evaluator.jobs import Sizes
from actors.evaluator.pools import PoolReport
from actors.evaluator.result_store import ScoredRun, Usage
from actors.evaluator.scoring import Adjusted, Grounds, ReferenceScores, draft_record, fixed, standing
from actors.evaluator.shortcuts import Shortcut
from actors.evaluator.source import Method
from actors.evaluator.statistics import compare, detectable
from cluster.config import ConfigError, load_config
from cluster.money import MICRO, MS_PER_HOUR, gpu_ms

N = 1400


def run(skill: float, seed: int, seeds: int = 10, n: int = N, grade: str = "A", **failures: str) -> ScoredRun:
    """Students of that accuracy whose mistakes are partly on the same items."""
    hard = np.random.default_rng(7).random(n)
    luck = np.random.default_rng(seed).random((seeds, n))
    usage = Usage(("l1",), 1000, grade, "probe")
    return ScoredRun(0.5 * hard + 0.5 * luck < skill, {int(k[1:]): v for k, v in failures.items()}, usage)


def bench(vanilla: ScoredRun, tier: Any = "seal", ceiling: float = 0.95) -> ReferenceScores:
    groups = np.arange(vanilla.hits.shape[1])
    method = Method("snapshot", "hash", "vanilla")
    seeds, n = vanilla.hits.shape
    weak, top, no_canaries = run(0.4, 1, seeds, n), run(ceiling, 2, 5, n), np.zeros(n, dtype=np.bool_)
    return ReferenceScores("math", tier, groups, no_canaries, weak, top, {"vanilla": (method, vanilla)}, "v", 1)


def audited(outcome: Any) -> AuditReport:
    """The report of an audit that found one thing."""
    return AuditReport(outcome, (Verdict("null task", outcome, 0.5, 0.5, "says so"),), Usage((), 0, "A", ""))


PASSED = Grounds(audited("pass"))


def word(made: ReferenceScores, own: ScoredRun, p: float = 0.001, grounds: Grounds = PASSED) -> dict[str, Any]:
    found = compare(own.hits, made.baselines["vanilla"][1].hits, made.groups)
    return standing(made, own, "vanilla", Adjusted(found, p, 6), grounds)


def test_a_sealed_run_that_is_clearly_better_beats_the_baseline() -> None:
    assert word(bench(run(0.5, 3)), run(0.7, 4))["word"] == "beats vanilla on math"


@pytest.mark.parametrize(
    ("made", "own", "p", "opened", "expected", "reason"),
    [
        (bench(run(0.5, 3), "board"), run(0.7, 4), 0.001, 0, "ahead (not established)", "not sealed"),
        (bench(run(0.5, 3)), run(0.7, 4), 0.2, 0, "ahead (not established)", "not significant"),
        (bench(run(0.5, 3)), run(0.7, 4), 0.001, 1, "ahead (not established)", "not the first method"),
        (bench(run(0.5, 3, s1="timeout")), run(0.7, 4), 0.001, 0, "ahead (not established)", "vanilla failed 1"),
        (bench(run(0.5, 3, 5)), run(0.7, 4, 5), 0.001, 0, "ahead (not established)", "too few"),
        (bench(run(0.5, 3)), run(0.7, 4, grade="B"), 0.001, 0, "provisional", "grade B"),
        (bench(run(0.5, 3)), run(0.7, 4, grade="C"), 0.001, 0, "unverified", "grade C"),
        (bench(run(0.5, 3), ceiling=0.55), run(0.7, 4), 0.001, 0, "unverified", "above the ceiling"),
        (bench(run(0.5, 3)), run(0.5, 3), 0.9, 0, "tied", ""),
        (bench(run(0.7, 3)), run(0.5, 4), 0.001, 0, "behind", ""),
    ],
)  # fmt: skip
def test_every_condition_alone_takes_the_word_away(
    made: ReferenceScores, own: ScoredRun, p: float, opened: int, expected: str, reason: str
) -> None:
    found = word(made, own, p, replace(PASSED, opened=opened))
    assert found["word"] == expected
    assert reason in found["reason"]
    assert bool(reason) == bool(found["reason"])


@pytest.mark.parametrize(
    ("audit", "expected", "reason"),
    [
        (None, "ahead (not established)", "not audited"),
        (audited("open"), "ahead (not established)", "null task: says so"),
        (audited("fail"), "disqualified", "null task: says so"),
        (audited("tag"), "beats vanilla on math", ""),
    ],
)
def test_a_claim_needs_an_audit_without_fault(audit: AuditReport | None, expected: str, reason: str) -> None:
    found = word(bench(run(0.5, 3)), run(0.7, 4), grounds=Grounds(audit))
    assert (found["word"], found["reason"]) == (expected, reason)


def test_a_claim_beyond_its_domain_needs_the_same_sign_in_another_one() -> None:
    made, own = bench(run(0.5, 3)), run(0.7, 4)
    assert word(made, own, grounds=replace(PASSED, elsewhere=frozenset({"vanilla"})))["word"] == "beats vanilla"
    assert (
        word(made, own, grounds=replace(PASSED, elsewhere=frozenset({"confident"})))["word"] == "beats vanilla on math"
    )


def test_a_comparison_says_what_difference_it_would_have_found() -> None:
    made, own = bench(run(0.5, 3)), run(0.5, 8)
    found, alone = word(made, own), compare(own.hits, made.baselines["vanilla"][1].hits, made.groups)
    assert found["word"] in ("tied", "behind", "ahead (not established)")
    assert found["detectable"] == pytest.approx(detectable(alone.se, alone.df, 6))
    assert found["detectable"] > detectable(alone.se, alone.df)


def test_a_method_whose_every_seed_failed_has_failed_and_has_no_interval() -> None:
    made = bench(run(0.5, 3))
    own = replace(made.weak, failures=dict.fromkeys(range(10), "error"))
    found = word(made, own)
    record = draft_record(made, Method("s", "h", "broken"), "01-a", own, [found])
    assert (record.status, record.interval) == ("failed", None)


def test_what_others_are_measured_against_carries_its_sandbox_grade() -> None:
    assert fixed("baseline", run(0.5, 3))["word"] == "baseline"
    assert fixed("baseline", run(0.5, 3, grade="C"))["word"] == "baseline, unverified"
    record = draft_record(
        bench(run(0.5, 3)), Method("", "", "ceiling"), "campaign", run(0.9, 2), [fixed("reference", run(0.9, 2))]
    )
    assert (record.pgr, record.interval_method) == (1.0, "by definition")


def test_an_interval_of_accuracy_stays_between_nothing_and_all() -> None:
    made = bench(run(0.5, 3))
    own = run(0.9999, 4)
    record = draft_record(made, Method("s", "h", "m"), "01-a", own, [word(made, own)])
    assert record.accuracy_interval is not None
    assert record.accuracy_interval[1] <= 1.0


PRESETS = [
    *("quickstart", "offline", "identical", "solo", "no-forum"),
    *("published", "published-identical", "published-solo", "published-no-forum", "structured"),
]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_shipped_presets_can_pay_for_their_seal(preset: str) -> None:
    check_budget(load_config(preset), 2)


def test_the_worst_of_seal_counts_twice_the_places_in_audits_on_every_domain() -> None:
    def hours(places: int, *domains: str) -> int:
        chosen = f"task.domains=[{','.join(domains)}]"
        return sealing(load_config("quickstart", overrides=(chosen, f"scoring.finalists={places}")), 2).gpu_ms

    config = load_config("quickstart")
    sizes = Sizes.of(config)
    audit = LEASES * sizes.lease_seconds(len(TRIALS) // LEASES)
    run = sum(sizes.lease_seconds(len(chunk)) for chunk in sizes.chunks(range(config.scoring.seal_seeds)))
    place = gpu_ms(config.runs.full_gpus, int(1000 * (2 * audit + run)))
    assert hours(2, "math") - hours(1, "math") == place
    assert hours(2, "math", "chat", "code") - hours(1, "math", "chat", "code") == 3 * place


def test_a_budget_that_cannot_pay_for_the_seal_is_refused_with_what_would_do() -> None:
    config = load_config("quickstart", overrides=("budget.campaign.usd=0.5",))
    need = sealing(config, 2) + largest_lease(config)
    with pytest.raises(ConfigError, match=rf"budget.campaign.usd: 0.5 .* at least {need.usd / MICRO:.2f}"):
        check_budget(config, 2)
    hours = load_config("quickstart", overrides=("budget.campaign.gpu_hours=0.1", "budget.campaign.usd=none"))
    with pytest.raises(ConfigError, match=rf"gpu_hours: 0.1 .* at least {need.gpu_ms / MS_PER_HOUR:.2f}"):
        check_budget(hours, 2)


def on_files(made: ReferenceScores, **more: Any) -> ReferenceScores:
    """The bench as that of a task from files."""
    clean = PoolReport("balance", "one", 900, 800, Shortcut(0.01, 0.01), Shortcut(0.01, 0.01))
    return replace(made, pool=replace(clean, **more))


def taught_by(made: ReferenceScores, own: ScoredRun) -> ScoredRun:
    """The run with a tenth of its answers its teacher's."""
    mixed = np.random.default_rng(5).random(own.hits.shape) < 0.1
    return replace(own, hits=np.where(mixed, made.weak.hits, own.hits))


def test_on_files_a_method_that_depends_on_its_teacher_beats_the_baseline() -> None:
    made = on_files(bench(run(0.5, 3)))
    found = word(made, taught_by(made, run(0.75, 4)))
    assert found["word"] == "beats vanilla on math"
    assert "caveat" not in found


def test_on_files_computed_answers_make_no_claim_without_a_person() -> None:
    found = word(on_files(bench(run(0.5, 3))), run(0.75, 4))
    assert found["word"] == "ahead (not established)"
    assert "do not depend on its teacher's" in found["reason"]


def test_a_shortcut_that_could_not_be_balanced_stands_in_the_record_and_takes_the_claim_away() -> None:
    left = Shortcut(0.2, 0.01)
    made = on_files(bench(run(0.5, 3)), before=left, after=left)
    found = word(made, taught_by(made, run(0.75, 4)))
    assert found["word"] == "ahead (not established)"
    assert found["reason"] == found["caveat"]
    assert "shortcuts: the pool's own statistics give .20" in found["caveat"]


def test_a_published_pool_to_the_letter_makes_claims_that_say_what_they_do_not_cover() -> None:
    made = on_files(bench(run(0.5, 3)), policy="keep", choice="all", before=Shortcut(0.2, 0.01))
    found = word(made, taught_by(made, run(0.75, 4)))
    assert found["word"] == "beats vanilla on math"
    assert "does not cover shortcuts: the pool was kept as published" in found["caveat"]


def test_a_failed_seed_whose_answers_are_its_teachers_is_no_sign_of_a_teacher() -> None:
    made = on_files(bench(run(0.5, 3)))
    own = run(0.75, 4, s0="timeout")
    failed = replace(own, hits=np.vstack([made.weak.hits[:1], own.hits[1:]]))
    influence = made.influence(failed)
    assert influence is not None
    assert not influence.shown
