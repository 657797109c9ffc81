"""How much a pool's figures tell about its truth: a probe that is fitted to some items and asked about the others.

Boosted steps: of all questions `is this figure beyond that quantile?` the one that says most is added, again and again.
It finds one telling figure among many that tell nothing as well as many that tell a little each: with few steps the
one, which many steps bury under what luck gave them; with many steps the others. The better number of steps counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]
FOLDS = 5
BINS = 8
STEPS = (6, 60)
"""Numbers of steps after which a probe is asked; the better one counts. On pools of 450 to 1,500 items a vote that is
right on .54 to .58 was lost in sixty steps (.00 to .03 beyond a half) and is found in six. On coin flips six steps give
.000 (sd .020 on 1,200 items), sixty -.011 (.016); a single step would be found too often by luck (.009, .037).
"""
RATE = 0.25
SHRINK = 10.0
"""Items' worth of doubt in the size of a step."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe said of items (n,) it was not fitted to: P(label 1), and how right it was.

    `gain` is the accuracy beyond a half when both classes count alike, `se` its standard error.
    """

    chance: Floats
    gain: float
    se: float


def steps_of(figures: Floats, member: Mask, *, odd: bool) -> Steps:
    """Columns of -1, 0 and 1 (n, k): on which side of its pool's quantiles each figure lies.

    `odd`: figures are differences of two answers, and exchanging these exchanges the sign of every column.
    """
    own = figures[member]
    live = own.std(axis=0) > 1e-9
    own, figures = own[:, live], figures[:, live]
    share = np.arange(BINS) / BINS if odd else np.arange(1, BINS) / BINS
    cuts = np.round(np.quantile(np.abs(own) if odd else own, share, axis=0), 9)
    if odd:
        columns = [np.sign(figures) * (np.abs(figures) > cut) for cut in cuts]
    else:
        columns = [np.where(figures > cut, 1.0, -1.0) for cut in cuts]
    return np.hstack(columns).astype(np.float32) if columns else np.zeros((len(figures), 0), np.float32)


def ask(steps: Steps, labels: Labels, folds: npt.NDArray[np.int64], member: Mask, *, odd: bool) -> Found:
    """Fit to the members of all folds (n,) but one and ask about that one. Both classes have the same weight.

    They have it in what is fitted to, not only in the whole: else the class that a fold has more of than its share is
    rarer in the others, and a probe that knows nothing is wrong more often than right.
    """
    target = (labels == 1).astype(np.float64)
    scores = np.zeros((len(STEPS), len(labels)))
    for fold in range(FOLDS):
        fitted, asked = folds != fold, folds == fold
        weight = _even(target, member & fitted)[fitted]
        scores[:, asked] = _boost(steps[fitted], target[fitted], weight, steps[asked], odd=odd)
    own = labels[member]
    gains = [_gain(score[member], own) for score in scores]
    best = int(np.argmax(gains))
    se = float(np.sqrt(sum(0.25 / np.sum(own == side) for side in (0, 1)))) / 2
    return Found(_calibrated(scores[best], target, _even(target, member)), gains[best], se)


def _gain(score: Floats, labels: Labels) -> float:
    """Accuracy beyond a half of the sign of `score` (n,), both classes counting alike; 0 is right half of the time."""
    right = [float(np.mean(score[labels == side] * (2 * side - 1) > 0)) for side in (0, 1)]
    even = [float(np.mean(score[labels == side] == 0)) / 2 for side in (0, 1)]
    return sum(right + even) / 2 - 0.5


def _even(target: Floats, member: Mask) -> Floats:
    """A weight for each item (n,): none outside `member`, and both classes the same within."""
    share = float(target[member].mean()) if member.any() else 0.5
    return np.where(member, 0.5 / np.maximum(1e-9, np.where(target == 1, share, 1 - share)), 0.0)


def _boost(steps: Steps, target: Floats, weight: Floats, asked: Steps, *, odd: bool) -> Floats:
    """Scores of `asked` (m,) after each number of `STEPS`: sums of shrunken Newton steps of logistic loss, each along
    the best column.
    """
    score, said = np.zeros(len(steps)), np.zeros(len(asked))
    kept = np.zeros((len(STEPS), len(asked)))
    if not steps.shape[1]:
        return kept
    for number in range(1, max(STEPS) + 1):
        chance = expit(score)
        slope = (weight * (target - chance)).astype(np.float32) @ steps
        curve = float((weight * chance * (1 - chance)).sum())
        best = int(np.argmax(np.round(np.abs(slope), 4)))
        size = RATE * float(slope[best]) / (curve + SHRINK)
        score += size * steps[:, best]
        said += size * asked[:, best]
        if not odd:
            chance = expit(score)
            shift = float((weight * (target - chance)).sum()) / (float((weight * chance * (1 - chance)).sum()) + SHRINK)
            score, said = score + shift, said + shift
        if number in STEPS:
            kept[STEPS.index(number)] = said
    return kept


def _calibrated(score: Floats, target: Floats, weight: Floats) -> Floats:
    """P(label 1) by a logistic curve of the score, fitted with Newton's method and a little shrinkage."""
    a = b = 0.0
    for _ in range(12):
        p = expit(a + b * score)
        gap, curve = weight * (target - p), weight * p * (1 - p)
        gradient = np.array([gap.sum(), (gap * score).sum() - b * 1e-3])
        off = (curve * score).sum()
        hessian = np.array([[curve.sum() + 1e-6, off], [off, (curve * score**2).sum() + 1e-3]])
        step = np.linalg.solve(hessian, gradient)
        a, b = a + float(step[0]), b + float(step[1])
    return np.asarray(expit(a + b * score), dtype=np.float64)
