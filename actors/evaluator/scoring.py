"""From runs to what may be said of a method: accuracy, PGR, comparisons, and the word for its standing.

"beats X on D" is said only of sealed runs in a verified sandbox, with enough seeds and items, after Holm's correction
over every comparison that was declared before the seal was broken; "beats X" without a domain only where the method is
ahead of X in another domain, too. Everything else is a lesser word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.evaluator.audits.auditor import AuditReport
from actors.evaluator.pools import PoolReport
from actors.evaluator.records import Record, bounds, finite
from actors.evaluator.result_store import ScoredRun
from actors.evaluator.source import Method
from actors.evaluator.statistics import Comparison, accuracy, compare, detectable, estimate_pgr
from actors.evaluator.statistics.influence import Influence, influence
from actors.evaluator.statistics.variance import Groups
from actors.evaluator.tiers import Tier
from cluster.money import gpu_cost

BASELINE, REFERENCE = "baseline", "reference"
AHEAD, TIED, BEHIND, FAILED = "ahead (not established)", "tied", "behind", "failed"
UNVERIFIED, PROVISIONAL, DISQUALIFIED = "unverified", "provisional", "disqualified"
VERIFIED_GRADE = "A"
REFERENCE_BASELINE = "vanilla"
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """Everything that a run on one tier of one domain is measured against; all share its items.

    Hits are against the truth; `canaries` (n,) marks the items for which an answer of the tier says otherwise.
    """

    domain: str
    tier: Tier
    groups: Groups
    canaries: npt.NDArray[np.bool_]
    weak: ScoredRun
    ceiling: ScoredRun
    baselines: Mapping[str, tuple[Method, ScoredRun]]
    data_version: str
    usd_per_gpu_hour: int
    pool: PoolReport | None = None
    """What was done to the unlabelled items of a task from files; none for a generated one, whose text is disguised."""

    @property
    def items(self) -> int:
        """Items of the tier."""
        return int(self.weak.hits.shape[1])

    def against_baselines(self, run: ScoredRun) -> dict[str, Comparison]:
        """The run compared to each baseline, paired by item and teacher."""
        return {name: compare(run.hits, other.hits, self.groups) for name, (_, other) in self.baselines.items()}

    def influence(self, run: ScoredRun) -> Influence | None:
        """How much the run depends on which teacher it had; on a task from files alone."""
        if self.pool is None:
            return None
        ran = [seed for seed in range(len(run.hits)) if seed not in run.failures]
        return influence(run.hits[ran], self.weak.hits[ran], self.groups)

    def above_ceiling(self, run: ScoredRun) -> bool:
        """Whether the run is more than three standard errors above the ceiling: too good to pass without an audit."""
        own, top = accuracy(run.hits, self.groups), accuracy(self.ceiling.hits, self.groups)
        return own.value - top.value > 3 * math.hypot(own.se, top.se)


def enough(seeds: int, items: int) -> bool:
    """Whether a sealed run is large enough for a claim."""
    return seeds >= 16 or (seeds >= 10 and items >= 1200)


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A comparison with its p adjusted for all `tests` comparisons of its family."""

    comparison: Comparison
    p: float
    tests: int


@dataclass(frozen=True, slots=True)
class Grounds:
    """What beside the numbers of a comparison decides the word for it.

    `opened` counts the methods that were scored on these sealed items before: they are sealed for the first one only.
    `elsewhere` names the baselines that the method is ahead of in another domain, in a verified sandbox.
    """

    audit: AuditReport | None = None
    opened: int = 0
    elsewhere: frozenset[str] = field(default_factory=frozenset)


def standing(bench: ReferenceScores, run: ScoredRun, versus: str, tested: Adjusted, grounds: Grounds) -> dict[str, Any]:
    """The word for a comparison, with the numbers it rests on.

    `detectable` is the smallest true difference that the comparison would have found in four cases of five.
    """
    comparison = tested.comparison
    interval = bounds(comparison.low, comparison.high)
    word, reason = _lesser_word(bench, run, interval, grounds)
    if word == AHEAD:
        reason = _short_of_a_claim(bench, run, versus, tested.p, grounds)
        where = "" if versus in grounds.elsewhere else f" on {bench.domain}"
        word = AHEAD if reason else f"beats {versus}{where}"
    found = finite(detectable(comparison.se, comparison.df, tested.tests))
    numbers = {"p": finite(tested.p), "diff": comparison.difference, "interval": interval, "detectable": found}
    caveat = {"caveat": bench.pool.caveat} if bench.pool is not None and bench.pool.caveat else {}
    return {"word": word, "versus": versus, **numbers, "reason": reason, **caveat}


def _lesser_word(
    bench: ReferenceScores, run: ScoredRun, interval: list[float] | None, grounds: Grounds
) -> tuple[str, str]:
    """The word that the interval of the difference gives, unless something stands against any word, and what."""
    grade = run.usage.sandbox_grade
    if grounds.audit is not None and grounds.audit.outcome == "fail":
        return DISQUALIFIED, _reasons(grounds.audit, "fail")
    if len(run.failures) == len(run.hits):
        return FAILED, "every seed failed"
    if grade != VERIFIED_GRADE:
        return unverified(grade), f"sandbox grade {grade}"
    if bench.above_ceiling(run):
        return UNVERIFIED, "above the ceiling: to be audited"
    if interval is not None and interval[0] > 0:
        return AHEAD, ""
    return (BEHIND if interval is not None and interval[1] < 0 else TIED), ""


def _reasons(audit: AuditReport, outcome: str) -> str:
    return "; ".join(f"{v.audit}: {v.says}" for v in audit.verdicts if v.outcome == outcome)


def _short_of_a_claim(bench: ReferenceScores, run: ScoredRun, versus: str, p: float, grounds: Grounds) -> str:
    """Why a run that is ahead may not be said to beat a baseline, or nothing."""
    seeds, items = run.hits.shape
    audit, opened = grounds.audit, grounds.opened
    if bench.tier != "seal":
        return "not sealed"
    if audit is None or audit.outcome == "open":
        return "not audited" if audit is None else _reasons(audit, "open")
    if opened:
        return f"not the first method scored on these sealed items ({opened} before)"
    if bench.baselines[versus][1].failures:
        return f"{versus} failed {len(bench.baselines[versus][1].failures)} of its seeds"
    if not enough(seeds, items):
        return f"{seeds} seeds and {items} items are too few"
    if p >= ALPHA:
        return "not significant after correction"
    return _without_teacher(bench, run)


def _without_teacher(bench: ReferenceScores, run: ScoredRun) -> str:
    """Why a gain on a task from files may come from elsewhere than teacher and strong model, or nothing."""
    if bench.pool is not None and bench.pool.open:
        return bench.pool.caveat
    taught = bench.influence(run)
    return "" if taught is None or taught.shown else taught.says


def unverified(grade: str) -> str:
    """The word for anything measured in a sandbox of less than the best grade."""
    return PROVISIONAL if grade == "B" else UNVERIFIED


def fixed(word: str, run: ScoredRun) -> dict[str, Any]:
    """The standing of what others are measured against."""
    grade = run.usage.sandbox_grade
    shown, reason = (
        (word, "") if grade == VERIFIED_GRADE else (f"{word}, {unverified(grade)}", f"sandbox grade {grade}")
    )
    none = dict.fromkeys(("versus", "p", "diff", "interval", "detectable"))
    return {"word": shown, **none, "reason": reason}


def draft_record(
    bench: ReferenceScores,
    method: Method,
    researcher: str,
    run: ScoredRun,
    standings: list[dict[str, Any]],
    audit: AuditReport | None = None,
) -> Record:
    """A record without number and signature; the first of `standings` gives its status."""
    mean = accuracy(run.hits, bench.groups)
    reference = str(standings[0]["word"]).startswith(REFERENCE)
    pgr, interval, how = _pgr(bench, method.name if reference else "", run)
    usage = run.usage
    return Record(
        method=method.name,
        researcher=researcher,
        tier=bench.tier,
        domain=bench.domain,
        snapshot=method.snapshot,
        code_hash=method.code_hash,
        entrant=method.entrant,
        accuracy=mean.value,
        accuracy_interval=_within(bounds(mean.low, mean.high)),
        pgr=pgr,
        interval=interval,
        interval_method=how,
        weak_accuracy=bench.weak.mean,
        ceiling_accuracy=bench.ceiling.mean,
        seeds=len(run.hits),
        n=bench.items,
        per_seed=run.per_seed,
        failed_seeds=sorted(run.failures),
        status=standings[0]["word"],
        standing=standings[0],
        comparisons=standings,
        audits=[] if audit is None else [verdict.to_dict() for verdict in audit.verdicts],
        sandbox_grade=usage.sandbox_grade,
        probe_hash=usage.probe_hash,
        lease_ids=list(usage.lease_ids),
        gpu_ms=usage.gpu_ms,
        cost=gpu_cost(usage.gpu_ms, bench.usd_per_gpu_hour),
        data_version=bench.data_version,
    )


def _pgr(bench: ReferenceScores, reference: str, run: ScoredRun) -> tuple[float | None, list[float] | None, str]:
    """PGR, interval and its method; of weak and ceiling 0 and 1 by definition, where there is a gap."""
    if reference:
        gap = bench.ceiling.mean > bench.weak.mean
        return (1.0 if reference == "ceiling" else 0.0) if gap else None, None, "by definition"
    found = estimate_pgr(run.hits, bench.weak.hits, bench.ceiling.hits, bench.groups)
    if len(run.failures) == len(run.hits):
        return finite(found.value) if found.defined else None, None, "every seed failed"
    return finite(found.value) if found.defined else None, bounds(found.low, found.high), found.method


def _within(interval: list[float] | None) -> list[float] | None:
    """An interval of accuracies; a t interval near 1 may reach beyond what an accuracy can be."""
    return None if interval is None else [max(0.0, interval[0]), min(1.0, interval[1])]


def gap_figures(bench: ReferenceScores) -> dict[str, Any]:
    """Weak and ceiling accuracy and their gap, each with seeds, n and interval, for people."""
    weak, ceiling = accuracy(bench.weak.hits, bench.groups), accuracy(bench.ceiling.hits, bench.groups)
    half = math.hypot(*(side.high - side.value for side in (weak, ceiling)))
    gap = ceiling.value - weak.value
    rows = {"weak": (weak.value, _within(bounds(weak.low, weak.high)), len(bench.weak.hits))}
    rows["ceiling"] = (ceiling.value, _within(bounds(ceiling.low, ceiling.high)), len(bench.ceiling.hits))
    rows["gap"] = (gap, bounds(gap - half, gap + half), min(len(bench.weak.hits), len(bench.ceiling.hits)))
    return {
        name: {"value": value, "interval": interval, "n": bench.items, "seeds": seeds}
        for name, (value, interval, seeds) in rows.items()
    }
