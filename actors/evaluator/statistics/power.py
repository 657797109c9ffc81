"""What a comparison could have found: the smallest true difference that a test of its precision detects."""

from __future__ import annotations

import math

from scipy import stats
from scipy.optimize import brentq

ALPHA = 0.05
POWER = 0.8


def detectable(se: float, df: float, tests: int = 1, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that a one-sided t test of standard error `se` finds with chance `power`.

    With `tests` comparisons in the family the level is that of Holm's first step, alpha / tests: a method that is alone
    in being better must pass it. The chance is that of the noncentral t distribution. nan when `se` or `df` is unknown.
    """
    if not (se >= 0 and df > 0):
        return math.nan
    critical = float(stats.t.isf(alpha / tests, df))
    farthest = critical + 2 * float(stats.t.isf(1 - power, df)) * math.sqrt(1 + critical**2 / df) + 5
    shift = brentq(lambda delta: stats.nct.sf(critical, df, delta) - power, 0.0, farthest, xtol=1e-4)
    return float(shift * se)
