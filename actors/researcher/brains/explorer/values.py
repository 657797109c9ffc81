"""What building blocks are worth, learned from scores: Bayesian linear regression with Thompson sampling.

The PGR of a recipe is modelled as `base + sum of its blocks' weights + noise`; weights have the prior N(0,
TAU^2), so that a block nobody has tried may be anything near zero. A draw from the posterior orders candidates:
blocks that scored are used, blocks that are unknown are tried (Thompson 1933; Russo et al. 2018, arXiv
1707.02038).

A pilot knows no truth: what it measures is a small push between methods of equal expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TAU = 0.15
"""Prior standard deviation of one block's effect on PGR."""
BASE_SD = 0.2
BASE_MEAN = 0.25
"""Where vanilla stands before any score; published baselines lie between .1 and .35."""
PUSH = 0.15
"""The most that a pilot can add, in PGR."""
SIDE_WEIGHT = 0.3
BALANCE_TOLERANCE = 0.15
MIN_AGREEMENT = 0.55
COLLAPSED = -0.5
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """One observation: the blocks of a recipe, its PGR, and the standard deviation of that number."""

    blocks: tuple[str, ...]
    pgr: float
    sd: float


class BlockValues:
    """The posterior over block weights."""

    def __init__(self, scores: Sequence[Score]) -> None:
        self._names = sorted({name for score in scores for name in score.blocks})
        size = 1 + len(self._names)
        prior = np.array([BASE_SD**-2] + [TAU**-2] * (size - 1))
        precision = np.diag(prior)
        target = prior * np.array([BASE_MEAN] + [0.0] * (size - 1))
        for score in scores:
            row = self._row(score.blocks)
            precision += np.outer(row, row) / score.sd**2
            target += row * score.pgr / score.sd**2
        self._covariance = np.linalg.inv(precision)
        self._mean: Vector = self._covariance @ target

    def _row(self, blocks: Sequence[str]) -> Vector:
        return np.array([1.0] + [float(name in blocks) for name in self._names])

    def mean(self, blocks: Sequence[str]) -> float:
        """The expected PGR of a recipe."""
        return float(self._row(blocks) @ self._mean)

    def draws(self, candidates: Sequence[Sequence[str]], rng: np.random.Generator) -> Vector:
        """One Thompson draw: a PGR for each candidate under the same sampled weights, unknown blocks included."""
        weights = rng.multivariate_normal(self._mean, self._covariance, method="cholesky")
        unknown: dict[str, float] = {}
        values = []
        for blocks in candidates:
            extra = [unknown.setdefault(b, float(rng.normal(0, TAU))) for b in blocks if b not in self._names]
            values.append(float(self._row(blocks) @ weights) + sum(extra))
        return np.array(values)

    def ranking(self) -> list[tuple[str, float, float]]:
        """Blocks with their mean effect and its standard deviation, best first."""
        deviations = np.sqrt(np.diag(self._covariance))[1:]
        rows = zip(self._names, self._mean[1:].tolist(), deviations.tolist(), strict=True)
        return sorted(rows, key=lambda row: -row[1])


def promise(pilot: dict[str, Any]) -> float:
    """A bonus in PGR, from -0.5 (collapsed) to +0.15.

    A student that answers nearly always the same, or agrees with its teacher hardly more than by chance, has
    collapsed. Otherwise, the more the strong model's own prior sides with the student where it leaves its
    teacher, the better.
    """
    if pilot.get("status") != "ok":
        return COLLAPSED
    skew = abs(float(pilot.get("balance", 0.5)) - float(pilot.get("weak_balance", 0.5)))
    if skew > 2 * BALANCE_TOLERANCE or float(pilot.get("agree_weak", 1.0)) < MIN_AGREEMENT:
        return COLLAPSED
    sides = pilot.get("prior_sides_with_student")
    push = SIDE_WEIGHT * (float(sides) - 0.5) if sides is not None else 0.0
    return max(-PUSH, min(PUSH, push)) - max(0.0, skew - BALANCE_TOLERANCE)
