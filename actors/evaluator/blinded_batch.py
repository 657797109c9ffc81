"""A blinded batch: the scored items as one student sees them, and the way back.

Each batch has an order of its own, ids of its own, and, for pairs, a random half of them with the two answers swapped.
Some items are in it twice: what an item is answered may not depend on its company. All of it is drawn from the secret
for one (tier, seed), the same for all methods so that copies of one show themselves; it can be rebuilt after a restart
and is written down nowhere. A student that answers by id or always the same is at chance; one that answers by position
contradicts itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from actors.evaluator.secret import Secret
from actors.evaluator.splits import Split
from actors.evaluator.statistics.variance import Hits
from cluster.errors import AarError
from gpu_pool.weak_to_strong.items import ItemSet

_ID_BYTES = 8
TWICE = 20
"""Items of a batch that are asked twice."""
SAME_ITEM = 0.05
"""Most that two probabilities of one item may differ: half precision in other batches moves the last digits only."""


class BatchError(AarError):
    """Answers that are no probabilities of this batch's items."""


@dataclass(frozen=True, slots=True)
class BlindedBatch:
    """`items` (m) go to the student; `order` (m,) maps a position to the split, where m - n items come twice;
    `swapped` (m,) marks exchanged pairs.
    """

    items: ItemSet
    order: npt.NDArray[np.int64] = field(repr=False)
    swapped: npt.NDArray[np.bool_] = field(repr=False)
    tie_break: npt.NDArray[np.bool_] = field(repr=False)

    def hits(self, probs: npt.NDArray[np.generic], split: Split) -> Hits:
        """Which items of `split` (n,), in the split's order, `probs` (m, 2) in the batch's order judge rightly.

        A tie is broken by a secret coin. Raises `BatchError` for a wrong shape, for what is no probability, and when an
        item that was asked twice got two answers.
        """
        values = self._checked(probs)
        _, first = np.unique(self.order, return_index=True)
        apart = np.abs(values - values[first[self.order]]).max()
        if apart > SAME_ITEM:
            raise BatchError(f"an item that was asked twice got probabilities that are {apart:.2f} apart")
        says = np.where(values[:, 0] == values[:, 1], self.tie_break, values[:, 1] > values[:, 0]) ^ self.swapped
        right: Hits = says[first] == (split.labels == 1)
        return right

    def in_order(self, probs: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """P(label 1) of the split's items (n,) in its order, and which of them were asked with answers exchanged (n,).

        Raises `BatchError` like `hits`.
        """
        values = self._checked(probs)[:, 1]
        _, first = np.unique(self.order, return_index=True)
        return values[first], self.swapped[first]

    def _checked(self, probs: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Probabilities (m, 2)."""
        if probs.shape != (len(self.order), 2) or probs.dtype.kind != "f":
            raise BatchError(f"expected ({len(self.order)}, 2) floats, found {probs.shape} {probs.dtype}")
        values = probs.astype(np.float64)
        if not np.isfinite(values).all() or values.min() < -1e-6 or values.max() > 1 + 1e-6:
            raise BatchError("some values are no probabilities (not finite, below 0 or above 1)")
        return values


def make_blinded_batch(secret: Secret, split: Split, *context: str | int) -> BlindedBatch:
    """The batch of `split` for one `context` (who, tier, domain, seed)."""
    rng = secret.generator("sheet", split.name, *context)
    count, pairs = len(split), split.items.kind == "pair"
    twice = rng.permutation(count)[:TWICE]
    order = rng.permutation(np.concatenate([np.arange(count), twice])).astype(np.int64)
    swapped = (rng.random(count) < 0.5)[order] if pairs else np.zeros(len(order), dtype=np.bool_)
    shown = split.items
    prompts, firsts, seconds = (tuple(c[i] for i in order) for c in (shown.prompts, shown.firsts, shown.seconds))
    drawn = rng.bytes(len(order) * _ID_BYTES).hex()
    ids = tuple(drawn[start : start + 2 * _ID_BYTES] for start in range(0, len(drawn), 2 * _ID_BYTES))
    items = ItemSet(split.items.kind, ids, prompts, firsts, seconds)
    return BlindedBatch(items.swap(swapped) if pairs else items, order, swapped, (rng.random(count) < 0.5)[order])
