"""The weak teacher: the weak model trained on the labelled items' truth."""

from __future__ import annotations

import numpy.typing as npt

from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.methods.truth import train_on_truth
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.run import Log, RunParams
from gpu_pool.weak_to_strong.student import Student


def train_teacher(
    weak: LabelModel, items: ItemSet, labels: npt.ArrayLike, params: RunParams, log: Log | None = None
) -> Student:
    """A student of the weak model; its probabilities on other items are the weak labels. `labels` (n,) of 0 and 1."""
    return train_on_truth(weak, items, labels, params, log)
