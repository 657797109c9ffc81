"""Is one method better than another? Paired by item and by teacher; many such questions corrected together.

The accuracy difference is tested, not the PGR difference: the gap is common to both and cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from actors.evaluator.statistics.gap import LEVEL, interval
from actors.evaluator.statistics.variance import Groups, Hits, over_items, over_seeds, pooled


@dataclass(frozen=True, slots=True)
class Comparison:
    """Accuracy of A minus accuracy of B, with a two-sided 95 % interval and a one-sided p-value for A > B."""

    difference: float
    low: float
    high: float
    se: float
    df: float
    p: float

    @property
    def z(self) -> float:
        """The difference in standard errors; infinite when there is no spread, nan when it is unknown."""
        if math.isnan(self.se):
            return math.nan
        return self.difference / self.se if self.se > 0 else math.copysign(math.inf, self.difference or -1.0)


def compare(a: Hits, b: Hits, groups: Groups | None = None, level: float = LEVEL) -> Comparison:
    """Compare two hit arrays (S, n) over the same items and, row by row, the same teachers.

    D = mean(a - b); its variance is that of the per-seed differences over S plus that of the per-item differences over
    n (clustered by `groups`), with Satterthwaite's degrees of freedom. With a single seed p is 1. Raises `ValueError`
    when the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"hits do not pair: {a.shape} and {b.shape}")
    difference = a.astype(np.float64) - b.astype(np.float64)
    part = pooled([over_seeds(difference.mean(axis=1)), over_items(difference.mean(axis=0), groups)])
    mean = float(difference.mean())
    bounds = interval(mean, part, level)
    return Comparison(mean, bounds.low, bounds.high, bounds.se, bounds.df, _one_sided(mean, bounds.se, bounds.df))


def _one_sided(mean: float, se: float, df: float) -> float:
    if math.isnan(se):
        return 1.0
    if se == 0.0:
        return 0.0 if mean > 0 else 1.0
    return float(stats.t.sf(mean / se, df))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values in the given order (Holm 1979): the chance of any false claim stays below the level.

    The k-th smallest of m is multiplied by m - k + 1, and none is smaller than the one before it. Written out, because
    statsmodels' `multipletests`, with which it agrees, collects garbage for a quarter of a second at every call.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(p) for p in adjusted]
