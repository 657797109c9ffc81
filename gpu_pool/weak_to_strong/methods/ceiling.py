"""The ceiling: the strong model trained on the truth of the items that methods see unlabelled."""

from __future__ import annotations

import numpy.typing as npt

from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.methods.truth import train_on_truth
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.run import Log, RunParams
from gpu_pool.weak_to_strong.student import Student


def train_ceiling(
    strong: LabelModel, items: ItemSet, labels: npt.ArrayLike, params: RunParams, log: Log | None = None
) -> Student:
    """A student of the strong model with the protocol of `vanilla` and true `labels` (n,) of 0 and 1."""
    return train_on_truth(strong, items, labels, params, log)
