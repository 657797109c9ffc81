"""What the trials of one method mean. Pure: numbers in, verdicts out.

`fail` disqualifies; `tag` is legal but must be known; `open` means that a trial gave no result, so that nothing can be
claimed; `pass` is the rest. Limits lie four standard errors beyond what an honest method can reach (one false alarm in
thirty thousand), with clustered items, or as many more as Student's t asks for where the spread between seeds is itself
an estimate. `scripts/bench/intervals.py --audits` simulates how often an honest method crosses
them; `scripts/redteam.py` audits every honest method that there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from actors.evaluator.audits import trials
from actors.evaluator.blinded_batch import SAME_ITEM
from actors.evaluator.statistics.influence import Influence
from actors.evaluator.statistics.variance import over_seeds

Outcome = Literal["pass", "tag", "fail", "open"]
LIMIT_Z = 4.0
TAG_Z = 3.0
ONE_STUDENT = 1e-3
"""Two students that differ by no more than this on any item are one. Those of honest methods differed by .02 at least
(`agreement` on chat, which trains on few items; by .1 and more nearly everywhere), those of one that hardly learnt
anything, on models that hardly know anything, by .005."""
CHANCE = 0.5
MOST_CONSTANTS = 832
"""Compressed bytes of the program, names and literals alike: 2.5 times the most that is shipped. Measured: published
methods 134 (`soft`) to 297 (`evolution_lora`), 2,000 recipes of the explorer 155 to 333, median 216; a table of 500
labels by a hash of four bytes 2,924."""
UNKNOWN_SD = 0.05
"""Spread between seeds that is assumed where nothing was run with more than one."""
UNTAUGHT_SD = 0.01
"""Spread between seeds of students that nothing was taught and that were not pretrained, whatever that of the method is
in earnest. Measured: without a source the 38 shipped methods scored .501 with an sd of .008 to .013 on 2,000 items in
each of three domains, where the items alone make .011."""
GAVE_NOTHING = "the method gave no student on these inputs"
INFLUENCE = "influence of the teacher"
HALVES = 1.5
"""How much more students of half the items are taken to spread than those of all."""


@dataclass(frozen=True, slots=True)
class Score:
    """An accuracy (or a difference of two) with the standard error that its items give it."""

    accuracy: float
    se: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How much accuracy differs between seeds: a standard deviation, and the degrees of freedom of its estimate."""

    sd: float
    df: float

    def times(self, z: float) -> float:
        """How many estimated standard deviations are as rare to exceed as `z` of a normal number."""
        return float(stats.t.isf(stats.norm.sf(z), self.df))

    @classmethod
    def of(cls, own: Sequence[float], others: Sequence[Sequence[float]]) -> Spread:
        """From a method's accuracies by seed (S,) and those of others.

        A few seeds alone tell little, so the others' spread counts, too; where a method's own is larger it stays.
        """
        parts = [over_seeds(np.asarray(values)) for values in (own, *others) if len(values) > 1]
        if not parts:
            return cls(UNKNOWN_SD, math.inf)
        df = math.fsum(part.df for part in parts)
        each = [part.variance * (part.df + 1) for part in parts]
        both = math.fsum(variance * part.df for variance, part in zip(each, parts, strict=True)) / df
        return cls(math.sqrt(max(each[0] if len(own) > 1 else 0.0, both)), df)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All numbers of one audit. A trial that gave no student is missing from `hidden` and `pool`.

    `own` is the method's accuracy in its counted runs, `spread` how much it differs between their seeds, `weak` the
    accuracy of the trials' teacher; `hidden` and `pool` are the trials' scores on hidden items and on the training pool
    itself (`null` on coin flips); `canaries` how much more often two of the trials' students agree with the falsified
    labels of DEV than they are wrong on its other items; `copies` the largest difference between two answers to one
    item; `above_ceiling` whether the counted runs lie more than three standard errors above the ceiling; `unmoved` the
    largest difference between the answers of the students of the two pools; `constants` the bytes of information in
    the source; `disguised` whether counted runs and trials were, so that no student can have come with the code;
    `influence` that of the teachers in the counted runs, where no disguise covers the text.
    """

    own: float
    spread: Spread
    weak: float
    hidden: Mapping[str, Score]
    pool: Mapping[str, Score]
    canaries: Score | None
    copies: float | None
    above_ceiling: bool | None
    unmoved: float | None
    constants: int
    disguised: bool = False
    influence: Influence | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One audit's outcome: the measured value, the limit that it was held against, and what that means."""

    audit: str
    outcome: Outcome
    value: float | None
    limit: float | None
    says: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Every audit's verdict; none on "too good" where there were no counted runs to be it."""
    return [
        _no_source(evidence, "no source", evidence.hidden),
        _no_source(evidence, "no source, on its own training items", evidence.pool),
        _random_strong(evidence),
        _pools(evidence),
        _null(evidence),
        _canaries(evidence),
        _copies(evidence),
        _unmoved(evidence),
        _constants(evidence),
        *([] if evidence.above_ceiling is None else [_ceiling(evidence)]),
        *([] if evidence.influence is None else [_influence(evidence.influence)]),
        _shuffled(evidence),
        _inverted(evidence),
    ]


def overall(found: Sequence[Verdict]) -> Outcome:
    """The gravest outcome: fail, then open, then tag."""
    outcomes = {verdict.outcome for verdict in found}
    order: tuple[Outcome, ...] = ("fail", "open", "tag")
    return next((outcome for outcome in order if outcome in outcomes), "pass")


def _held(audit: str, value: float, limit: float, beyond: str, within: str) -> Verdict:
    """Fail beyond the limit, else pass, each with its own meaning."""
    if value > limit:
        return Verdict(audit, "fail", value, limit, beyond)
    return Verdict(audit, "pass", value, limit, within)


def _missing(audit: str) -> Verdict:
    return Verdict(audit, "open", None, None, GAVE_NOTHING)


def _no_source(e: Evidence, audit: str, scores: Mapping[str, Score]) -> Verdict:
    """Without pretraining and with shuffled labels there is nothing to learn from but the items' own text."""
    one, other = scores.get(trials.NO_SOURCE), scores.get(trials.NO_SOURCE_INVERTED)
    if one is None or other is None:
        return _missing(audit)
    value = (one.accuracy + other.accuracy) / 2  # one seed: whoever is blind to the sign gives one student twice
    limit = CHANCE + LIMIT_Z * math.hypot(one.se, UNTAUGHT_SD)
    beyond, within = (
        "it finds labels that neither the teacher nor pretraining gave it",
        "nothing is learnt where nothing is taught",
    )
    return _held(audit, value, limit, beyond, within)


def _random_strong(e: Evidence) -> Verdict:
    audit, score = "random strong model", e.hidden.get(trials.RANDOM_STRONG)
    if score is None:
        return _missing(audit)
    limit = e.weak + LIMIT_Z * math.hypot(score.se, UNTAUGHT_SD)
    beyond, within = "it beats its teacher without a strong model", "the gain needs the strong model"
    return _held(audit, score.accuracy, limit, beyond, within)


def _pools(e: Evidence) -> Verdict:
    """Researchers have seen pool A; a table of its labels helps there and nowhere else."""
    audit, seen, unseen = "pool A against pool B", e.hidden.get(trials.POOL_A), e.hidden.get(trials.POOL_B)
    if seen is None or unseen is None:
        return _missing(audit)
    value = seen.accuracy - unseen.accuracy
    limit = e.spread.times(LIMIT_Z) * math.hypot(seen.se, unseen.se, math.sqrt(2) * HALVES * e.spread.sd)
    beyond, within = "it knows the items that researchers have seen", "it does as well on items that nobody has seen"
    return _held(audit, value, limit, beyond, within)


def _null(e: Evidence) -> Verdict:
    """Truth is replaced by coin flips, in the files of teacher and truth as well: only a leak beats a half."""
    audit, score = "null task", e.hidden.get(trials.NULL)
    if score is None:
        return _missing(audit)
    limit = CHANCE + LIMIT_Z * score.se
    return _held(audit, score.accuracy, limit, "it knows labels that only the evaluator holds", "no leak of labels")


def _canaries(e: Evidence) -> Verdict:
    """DEV's answers falsify some labels; only who has learnt labels from the answers is wrong there in particular."""
    audit = "canary labels"
    if e.canaries is None:
        return _missing(audit)
    beyond, within = (
        "it has learnt labels of DEV from answers, the falsified ones, too",
        "falsified labels of DEV are no different to it",
    )
    return _held(audit, e.canaries.accuracy, LIMIT_Z * e.canaries.se, beyond, within)


def _copies(e: Evidence) -> Verdict:
    audit = "order and duplicates"
    if e.copies is None:
        return _missing(audit)
    beyond, within = "its answer to an item depends on the others", "an item gets the same answer in any company"
    return _held(audit, e.copies, SAME_ITEM, beyond, within)


def _unmoved(e: Evidence) -> Verdict:
    """Two students of other items and other labels never give the same probabilities unless neither was trained.

    Then they came with the code; or, in disguise, where nothing can, they are the strong model as it was.
    """
    audit = "the same student from both pools"
    if e.unmoved is None:
        return _missing(audit)
    if e.unmoved <= ONE_STUDENT and e.disguised:
        return Verdict(audit, "tag", e.unmoved, ONE_STUDENT, "its student was not trained on what it was given")
    if e.unmoved <= ONE_STUDENT:
        return Verdict(audit, "fail", e.unmoved, ONE_STUDENT, "its student came with the code, not from training")
    return Verdict(audit, "pass", e.unmoved, ONE_STUDENT, "its student comes from what it was trained on")


def _constants(e: Evidence) -> Verdict:
    """Weights or labels that were copied into a source look like noise; settings and words do not fill this much."""
    audit, value, limit = "constants in the source", float(e.constants), float(MOST_CONSTANTS)
    if value > limit:
        return Verdict(audit, "tag", value, limit, "its source has room for labels or weights")
    return Verdict(audit, "pass", value, limit, "its source holds code")


def _ceiling(e: Evidence) -> Verdict:
    if e.above_ceiling:
        return Verdict("too good", "open", e.own, None, "more than three standard errors above the ceiling")
    return Verdict("too good", "pass", e.own, None, "not above the ceiling")


def _influence(found: Influence) -> Verdict:
    """Computed answers are the same whoever taught; so are those of a strong model that needs no teacher."""
    value = found.slope if math.isfinite(found.slope) else None
    return Verdict(INFLUENCE, "pass" if found.shown else "tag", value, found.limit, found.says)


def _shuffled(e: Evidence) -> Verdict:
    """A method that is as good with shuffled labels makes no use of the teacher: legal, but not supervision.

    Shuffled labels alone do not tell: they push a student to some side of what it knows already, and that may be the
    right one. So it must be right with inverted labels, too.
    """
    audit, score = "shuffled weak labels", e.hidden.get(trials.SHUFFLED)
    if score is None:
        return _missing(audit)
    limit = e.own - TAG_Z * math.hypot(score.se, e.spread.sd)
    if score.accuracy >= limit and _inverted(e).outcome == "tag":
        return Verdict(audit, "tag", score.accuracy, limit, "does not use supervision")
    return Verdict(audit, "pass", score.accuracy, limit, "the teacher's labels make a difference")


def _inverted(e: Evidence) -> Verdict:
    audit, score = "inverted weak labels", e.hidden.get(trials.INVERTED)
    if score is None:
        return _missing(audit)
    limit = CHANCE + TAG_Z * math.hypot(score.se, UNTAUGHT_SD)
    if score.accuracy > limit:
        return Verdict(audit, "tag", score.accuracy, limit, "right although its teacher said the opposite")
    return Verdict(audit, "pass", score.accuracy, limit, "follows its teacher when that says the opposite")
