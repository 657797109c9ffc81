"""The order of a board of noisy values: shrunken towards their mean, so that the luckiest of many is not the best.

Empirical Bayes: values are drawn around a common mean with variance tau^2 and measured with known standard errors. The
mean and tau^2 are estimated from the board (Paule and Mandel 1982, by statsmodels); each value is then drawn towards
the mean by the share of its variance that is noise, tau^2 / (tau^2 + se^2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.meta_analysis import combine_effects

CLEAR_Z = 1.96
_LEAST_SE = 1e-6


@dataclass(frozen=True, slots=True)
class Shrunken:
    """A value after shrinking, what uncertainty is left in it, and its rank: one more than those clearly better."""

    value: float
    se: float
    rank: int


def shrink(values: Sequence[float], ses: Sequence[float]) -> list[Shrunken]:
    """Shrink `values` with standard errors `ses`, in their order. Raises `ValueError` when the lengths differ.

    Entries tie, and share a rank, when neither is 1.96 standard errors of their difference above the other. A single
    value stays as it is: there is nothing to learn a mean from.
    """
    if len(values) != len(ses):
        raise ValueError(f"{len(values)} values with {len(ses)} standard errors")
    if len(values) < 2:
        return [Shrunken(float(value), float(se), 1) for value, se in zip(values, ses, strict=True)]
    effect, variance = np.asarray(values, dtype=np.float64), np.maximum(np.asarray(ses), _LEAST_SE) ** 2
    tau2, centre = _spread(effect, variance)
    weight = tau2 / (tau2 + variance)
    shown = centre + weight * (effect - centre)
    left = np.sqrt(weight * variance)
    ahead = shown[:, None] - shown[None, :] > CLEAR_Z * np.hypot(left[:, None], left[None, :]) + 1e-12
    ranks = 1 + ahead.sum(axis=0)
    return [Shrunken(float(v), float(s), int(r)) for v, s, r in zip(shown, left, ranks, strict=True)]


def _spread(effect: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """The variance of true values on the board, and their mean."""
    found = combine_effects(effect, variance, method_re="iterated")
    tau2 = float(found.tau2)
    tau2 = tau2 if math.isfinite(tau2) and tau2 > 0 else 0.0
    weights = 1 / (tau2 + variance)
    return tau2, float((weights * effect).sum() / weights.sum())
