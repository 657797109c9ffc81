"""An answer sheet: the scored items as one student sees them, and the way back.

Each sheet has an order of its own, ids of its own, and, for pairs, a random half of them with the two answers swapped.
All three are drawn from the secret for one (method, tier, seed), so that a sheet can be rebuilt after a restart but is
written down nowhere. A student that answers by position, by id, or always the same is at chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from actors.evaluator.secret import Secret
from actors.evaluator.statistics.variance import Hits
from actors.evaluator.truth import Split
from cluster.errors import AarError
from gpu_pool.weak_to_strong.items import ItemSet

_ID_BYTES = 8


class SheetError(AarError):
    """Answers that are no probabilities of this sheet's items."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """`items` go to the student; `order` (n,) maps a position to the split, `swapped` (n,) marks exchanged pairs."""

    items: ItemSet
    order: npt.NDArray[np.int64] = field(repr=False)
    swapped: npt.NDArray[np.bool_] = field(repr=False)
    tie_break: npt.NDArray[np.bool_] = field(repr=False)

    def hits(self, probs: npt.NDArray[np.generic], split: Split) -> Hits:
        """Which items of `split` (n,), in the split's order, `probs` (n, 2) in the sheet's order judge rightly.

        A tie is broken by a secret coin. Raises `SheetError` for a wrong shape or what is no probability.
        """
        answers = self._judged(probs) ^ self.swapped
        right = np.empty(len(self.order), dtype=np.bool_)
        right[self.order] = answers == (split.labels[self.order] == 1)
        return right

    def _judged(self, probs: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
        """Label 1 or not, as the student saw the items (n,)."""
        if probs.shape != (len(self.order), 2) or probs.dtype.kind != "f":
            raise SheetError(f"expected ({len(self.order)}, 2) floats, found {probs.shape} {probs.dtype}")
        values = probs.astype(np.float64)
        if not np.isfinite(values).all() or values.min() < -1e-6 or values.max() > 1 + 1e-6:
            raise SheetError("some values are no probabilities (not finite, below 0 or above 1)")
        return np.where(values[:, 0] == values[:, 1], self.tie_break, values[:, 1] > values[:, 0])


def make_sheet(secret: Secret, split: Split, *context: str | int) -> Sheet:
    """The sheet of `split` for one `context` (who, tier, domain, seed)."""
    rng = secret.generator("sheet", split.name, *context)
    count = len(split)
    order = rng.permutation(count).astype(np.int64)
    swapped = rng.random(count) < 0.5 if split.items.kind == "pair" else np.zeros(count, dtype=np.bool_)
    shown = split.items.take(order)
    if split.items.kind == "pair":
        shown = shown.swap(swapped)
    drawn = rng.bytes(count * _ID_BYTES).hex()
    ids = tuple(drawn[start : start + 2 * _ID_BYTES] for start in range(0, len(drawn), 2 * _ID_BYTES))
    items = ItemSet(shown.kind, ids, shown.prompts, shown.firsts, shown.seconds)
    return Sheet(items, order, swapped, rng.random(count) < 0.5)
