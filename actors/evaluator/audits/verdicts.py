"""What the trials of one method mean. Pure: numbers in, verdicts out.

`fail` disqualifies; `tag` is legal but must be known; `open` means that a trial gave no result, so that nothing can be
claimed; `pass` is the rest. Limits are four standard errors (one false alarm in thirty thousand) beyond what an honest
method can reach, with clustered items and the method's own spread between seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from actors.evaluator.audits import trials

Outcome = Literal["pass", "tag", "fail", "open"]
LIMIT_Z = 4.0
TAG_Z = 3.0
SAME = 1e-3
"""Largest difference between two probabilities of one item; batches of other lengths change the last bits only."""
CHANCE = 0.5
MOST_CONSTANTS = 832
"""Compressed bytes of the program, names and literals alike: 2.5 times the most that is shipped. Measured: published
methods 134 (`soft`) to 297 (`evolution_lora`), 2,000 recipes of the explorer 155 to 333, median 216; a table of 500
labels by a hash of four bytes 2,924."""
UNTAUGHT_SD = 0.03
"""Most that the spread between seeds may widen a limit where nothing can be elicited: students without pretraining all
stay near their teacher (measured: pairs of them within .01 of a half), however much pretrained ones differ."""


@dataclass(frozen=True, slots=True)
class Score:
    """An accuracy (or a difference of two) with the standard error that its items give it."""

    accuracy: float
    se: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """All numbers of one audit. A trial that gave no student is missing from `hidden` and `pool`.

    `own` is the method's accuracy in its counted runs, `seed_sd` its spread between their seeds, `weak` the accuracy of
    the trials' teacher; `hidden` and `pool` are the trials' scores on hidden items and on the training pool itself
    (`null` on coin flips); `canaries` how much more often two of the trials' students agree with the falsified labels
    of DEV than they are wrong on its other items; `copies` the largest difference between two answers to one item;
    `above_ceiling` whether the counted runs lie more than three standard errors above the ceiling; `unmoved` the
    largest difference between the answers of the students of the two pools; `constants` the bytes of information in
    the source's own literals.
    """

    own: float
    seed_sd: float
    weak: float
    hidden: Mapping[str, Score]
    pool: Mapping[str, Score]
    canaries: Score | None
    copies: float | None
    above_ceiling: bool
    unmoved: float | None
    constants: int


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
    """Every audit's verdict."""
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
        _ceiling(evidence),
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
    return Verdict(audit, "open", None, None, "the method gave no student on these inputs")


def _no_source(e: Evidence, audit: str, scores: Mapping[str, Score]) -> Verdict:
    """Without pretraining and with shuffled labels there is nothing to learn from but the items' own text."""
    one, other = scores.get(trials.NO_SOURCE), scores.get(trials.NO_SOURCE_INVERTED)
    if one is None or other is None:
        return _missing(audit)
    value = (one.accuracy + other.accuracy) / 2
    limit = CHANCE + LIMIT_Z * math.hypot(one.se, min(e.seed_sd, UNTAUGHT_SD)) / math.sqrt(2)
    beyond, within = (
        "it finds labels that neither the teacher nor pretraining gave it",
        "nothing is learnt where nothing is taught",
    )
    return _held(audit, value, limit, beyond, within)


def _random_strong(e: Evidence) -> Verdict:
    audit, score = "random strong model", e.hidden.get(trials.RANDOM_STRONG)
    if score is None:
        return _missing(audit)
    limit = e.weak + LIMIT_Z * math.hypot(score.se, min(e.seed_sd, UNTAUGHT_SD))
    beyond, within = "it beats its teacher without a strong model", "the gain needs the strong model"
    return _held(audit, score.accuracy, limit, beyond, within)


def _pools(e: Evidence) -> Verdict:
    """Researchers have seen pool A; a table of its labels helps there and nowhere else."""
    audit, seen, unseen = "pool A against pool B", e.hidden.get(trials.POOL_A), e.hidden.get(trials.POOL_B)
    if seen is None or unseen is None:
        return _missing(audit)
    value = seen.accuracy - unseen.accuracy
    limit = LIMIT_Z * math.hypot(seen.se, unseen.se, math.sqrt(2) * e.seed_sd)
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
    return _held(audit, e.copies, SAME, beyond, within)


def _unmoved(e: Evidence) -> Verdict:
    """Two students of other items and other labels never give the same probabilities unless both came with the code."""
    audit = "the same student from both pools"
    if e.unmoved is None:
        return _missing(audit)
    if e.unmoved <= SAME:
        return Verdict(audit, "fail", e.unmoved, SAME, "its student came with the code, not from training")
    return Verdict(audit, "pass", e.unmoved, SAME, "its student comes from what it was trained on")


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


def _shuffled(e: Evidence) -> Verdict:
    """A method that is as good with shuffled labels makes no use of the teacher: legal, but not supervision.

    Shuffled labels alone do not tell: they push a student to some side of what it knows already, and that may be the
    right one. So it must be right with inverted labels, too.
    """
    audit, score = "shuffled weak labels", e.hidden.get(trials.SHUFFLED)
    if score is None:
        return _missing(audit)
    limit = e.own - TAG_Z * math.hypot(score.se, e.seed_sd)
    if score.accuracy >= limit and _inverted(e).outcome == "tag":
        return Verdict(audit, "tag", score.accuracy, limit, "does not use supervision")
    return Verdict(audit, "pass", score.accuracy, limit, "the teacher's labels make a difference")


def _inverted(e: Evidence) -> Verdict:
    audit, score = "inverted weak labels", e.hidden.get(trials.INVERTED)
    if score is None:
        return _missing(audit)
    limit = CHANCE + TAG_Z * math.hypot(score.se, min(e.seed_sd, UNTAUGHT_SD))
    if score.accuracy > limit:
        return Verdict(audit, "tag", score.accuracy, limit, "right although its teacher said the opposite")
    return Verdict(audit, "pass", score.accuracy, limit, "follows its teacher when that says the opposite")
