"""The performance gap recovered, PGR = (transfer - weak) / (ceiling - weak), with an interval over seeds x items.

Weak and student hits are paired by row: seed i of the student learnt from teacher i. The ceiling has seeds of its own.
All three share the items. For any a, b, c the estimate a*T + b*W + c*C then has three parts of variance: the paired
seeds (a*T_i + b*W_i), the ceiling's seeds (c*C_i), and the items (a*t_j + b*w_j + c*c_j).

Delta method: PGR moves by (dT - (1-p) dW - p dC) / gap, with p the PGR itself.
Fieller (1954): all p for which T - (1-p) W - p C is within t standard errors of zero. Right in form, needed when the
gap is less than `FIELLER_BELOW` standard errors; unbounded (the gap may be zero) means that the PGR is undefined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actors.evaluator.statistics.variance import Groups, Hits, Part, over_items, over_seeds, pooled, t_quantile

LEVEL = 0.95
FIELLER_BELOW = 5.0
IntervalMethod = Literal["delta", "fieller", "one seed", "undefined"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its two-sided 95 % interval; `low` and `high` are nan when it cannot be known (a single seed)."""

    value: float
    low: float
    high: float
    se: float
    df: float


@dataclass(frozen=True, slots=True)
class PgrEstimate:
    """A PGR with its interval, and how that was found.

    "undefined": the gap is not positive, or may be zero; `value` is nan in the first case. "one seed": no interval can
    be known. In both `low` and `high` are nan.
    """

    value: float
    low: float
    high: float
    method: IntervalMethod

    @property
    def defined(self) -> bool:
        """Whether the ratio means anything: there is surely a gap, as far as can be known."""
        return self.method != "undefined"


def accuracy(hits: Hits, groups: Groups | None = None, level: float = LEVEL) -> Interval:
    """Mean accuracy of `hits` (S, n) with its interval over seeds x items."""
    values = hits.astype(np.float64)
    part = pooled([over_seeds(values.mean(axis=1)), over_items(values.mean(axis=0), groups)])
    return interval(float(values.mean()), part, level)


def interval(value: float, part: Part, level: float = LEVEL) -> Interval:
    """`value` with the t interval of a pooled variance."""
    if math.isnan(part.variance):
        return Interval(value, math.nan, math.nan, math.nan, 0.0)
    se = math.sqrt(part.variance)
    half = t_quantile(level, part.df) * se if se > 0 else 0.0
    return Interval(value, value - half, value + half, se, part.df)


def estimate_pgr(
    student: Hits, weak: Hits, ceiling: Hits, groups: Groups | None = None, level: float = LEVEL
) -> PgrEstimate:
    """PGR of `student` (S, n) over `weak` (S, n, same teachers by row) and `ceiling` (C, n), with its 95 % interval.

    Raises `ValueError` when shapes do not pair.
    """
    if student.shape != weak.shape or student.shape[1] != ceiling.shape[1]:
        raise ValueError(f"hits do not pair: student {student.shape}, weak {weak.shape}, ceiling {ceiling.shape}")
    mix = _Mix(student, weak, ceiling, groups)
    gap, gap_part = mix.combine(0.0, -1.0, 1.0)
    gain, gain_part = mix.combine(1.0, -1.0, 0.0)
    if not gap > 0:
        return PgrEstimate(math.nan, math.nan, math.nan, "undefined")
    value = gain / gap
    _, part = mix.combine(1.0, value - 1.0, -value)
    if math.isnan(part.variance) or math.isnan(gap_part.variance):
        return PgrEstimate(value, math.nan, math.nan, "one seed")
    quantile = t_quantile(level, part.df) if part.variance > 0 else 0.0
    if gap >= FIELLER_BELOW * math.sqrt(gap_part.variance):
        half = quantile * math.sqrt(part.variance) / gap
        return PgrEstimate(value, value - half, value + half, "delta")
    _, at_one = mix.combine(1.0, 0.0, -1.0)
    covariance = (gain_part.variance + gap_part.variance - at_one.variance) / 2
    bounds = fieller(gain, gap, (gain_part.variance, covariance, gap_part.variance), quantile)
    if bounds is None:
        return PgrEstimate(value, math.nan, math.nan, "undefined")
    return PgrEstimate(value, *bounds, "fieller")


def fieller(
    numerator: float, denominator: float, variances: tuple[float, float, float], quantile: float
) -> tuple[float, float] | None:
    """The Fieller set of a ratio as (low, high), or `None` when it is unbounded.

    `variances` are var(numerator), cov, var(denominator). Solves (N - pD)^2 <= t^2 (vN - 2 p cov + p^2 vD) for p.
    """
    var_n, cov, var_d = variances
    a = denominator**2 - quantile**2 * var_d
    if a <= 0:
        return None
    b = numerator * denominator - quantile**2 * cov
    c = numerator**2 - quantile**2 * var_n
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a


class _Mix:
    """Means over seeds and over items of the three hit arrays, ready for linear combinations."""

    def __init__(self, student: Hits, weak: Hits, ceiling: Hits, groups: Groups | None) -> None:
        arrays = [array.astype(np.float64) for array in (student, weak, ceiling)]
        self._seeds = [array.mean(axis=1) for array in arrays]
        self._items = [array.mean(axis=0) for array in arrays]
        self._groups = groups

    def combine(self, a: float, b: float, c: float) -> tuple[float, Part]:
        """a*T + b*W + c*C and its pooled variance."""
        seeds = a * self._seeds[0] + b * self._seeds[1]
        items = a * self._items[0] + b * self._items[1] + c * self._items[2]
        parts = [over_items(items, self._groups)]
        if a or b:
            parts.append(over_seeds(seeds))
        if c:
            parts.append(over_seeds(c * self._seeds[2]))
        return float(items.mean()), pooled(parts)
