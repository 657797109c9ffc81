"""How much a student's answers depend on which teacher it had.

The seeds of a run have different teachers, which err on different items. Within an item, over the seeds, a student that
learnt from its teacher is right a little more often where its own teacher is: the slope of its hits on its teacher's.
Whoever works answers out, or brings out what the strong model knows by itself, is right or wrong whoever taught it, and
has a slope of zero. The student cannot see the other teachers, so that it cannot tell how its slope comes out.

Measured (five seeds whose teachers share all but the seed, 2,000 items): see `SHOWN_Z`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from actors.evaluator.statistics.variance import Groups, Hits

SHOWN_Z = 2.33
"""Standard errors above zero from which on influence is taken as shown: one in a hundred of those without any."""


@dataclass(frozen=True, slots=True)
class Influence:
    """The slope of a student's hits on its teacher's, within items and seeds, and its standard error.

    Nan where the teachers never differ, or where there is one seed.
    """

    slope: float
    se: float

    @property
    def limit(self) -> float | None:
        """The least slope that would have shown an influence; none where nothing could."""
        return SHOWN_Z * self.se if self.se > 0 else None

    @property
    def shown(self) -> bool:
        """Whether the answers depend on the teacher beyond doubt."""
        return self.slope > SHOWN_Z * self.se

    @property
    def says(self) -> str:
        """What that means."""
        if self.shown:
            return "its answers depend on its teacher's"
        return "its answers do not depend on its teacher's: elicited or computed; no claim without a person's review"


def influence(own: Hits, teachers: Hits, groups: Groups) -> Influence:
    """From hits (S, n) of students and, row by row, of their teachers; items of one group (n,) are one cluster.

    Least squares with a constant for each item and each seed; errors clustered by group (Liang and Zeger 1986).
    """
    if len(own) < 2:
        return Influence(math.nan, math.nan)
    answers, taught = _within(own), _within(teachers)
    spread = float((taught**2).sum())
    if spread == 0.0:
        return Influence(math.nan, math.nan)
    slope = float((answers * taught).sum()) / spread
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=((answers - slope * taught) * taught).sum(axis=0))
    clusters = len(sums)
    scale = clusters / (clusters - 1) if clusters > 1 else math.nan
    return Influence(slope, math.sqrt(scale * float((sums**2).sum())) / spread)


def _within(hits: Hits) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Hits less the mean of their item and that of their seed."""
    values = hits.astype(np.float64)
    return np.asarray(values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean())
