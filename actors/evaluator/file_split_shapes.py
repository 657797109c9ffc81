"""Questions of a split as sizes and classes, and which of them go together into four pools. Pure.

Promise: whether an assignment exists that fits is answered from the questions alone, by orders that no secret draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Places = npt.NDArray[np.int64]
"""The pool (0 to 3) of each question."""
POOLS = 4
_ORDERS = 300
"""Fixed orders that are tried beside the two by size and the one by class."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Per question (q,): its number, its items, those of the second class; where the first three pools end, in items;
    and the least items of a pool.
    """

    questions: Integers
    sizes: Integers
    positives: Integers
    ends: Integers
    least: int

    def laid(self, order: Integers) -> Places:
        """Questions laid one after another: each belongs to the pool in which its first item lies."""
        sizes = self.sizes[order]
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.searchsorted(self.ends, np.cumsum(sizes) - sizes, side="right")
        return places

    def fits(self, places: Places) -> bool:
        """Whether each pool has items enough, of both classes."""
        items = np.bincount(places, weights=self.sizes, minlength=POOLS)
        positives = np.bincount(places, weights=self.positives, minlength=POOLS)
        return bool((items >= self.least).all() and (positives > 0).all() and (positives < items).all())

    def known_to_fit(self) -> Places | None:
        """An assignment that fits, the same for everybody, or `None` when none was found."""
        by_size = np.argsort(self.sizes, kind="stable")
        fixed = np.random.default_rng(0)
        for order in (by_size[::-1], by_size):
            if self.fits(places := self._spread(order)):
                return places
        for _ in range(_ORDERS):
            order = fixed.permutation(len(self.sizes))
            for places in (self._spread(order), self.laid(order)):
                if self.fits(places):
                    return places
        return None

    def shuffled(self, places: Places, rng: np.random.Generator) -> Places:
        """The same assignment with questions of equal size and classes exchanged at random."""
        changed = places.copy()
        kinds = np.unique(np.stack([self.sizes, self.positives]), axis=1, return_inverse=True)[1].reshape(-1)
        for kind in range(int(kinds.max(initial=-1)) + 1):
            alike = np.flatnonzero(kinds == kind)
            changed[alike] = rng.permutation(places[alike])
        return changed

    def _spread(self, order: Integers) -> Places:
        """Both classes to every pool first, as far as they go, then each question to the pool that is emptiest."""
        places = np.full(len(order), -1, dtype=np.int64)
        filled = np.zeros(POOLS)
        total = float(self.sizes.sum())
        wanted = np.maximum(np.diff(np.concatenate([[0], self.ends, [total]])), 1)
        mixed = (self.positives > 0) & (self.positives < self.sizes)
        first = [q for q in order if mixed[q]][:POOLS]
        lacking = range(len(first), POOLS)
        for kind in (self.positives == self.sizes, self.positives == 0):
            given = zip(lacking, [q for q in order if kind[q]], strict=False)
            for pool, question in given:
                places[question] = pool
                filled[pool] += self.sizes[question]
        for pool, question in enumerate(first):
            places[question] = pool
            filled[pool] += self.sizes[question]
        for question in order:
            if places[question] < 0:
                short = filled < self.least
                pool = int(np.argmin(np.where(short, filled - total, filled / wanted)))
                places[question] = pool
                filled[pool] += self.sizes[question]
        return places
