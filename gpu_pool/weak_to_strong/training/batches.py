"""Which examples make a training batch, and how a batch is cut into what is computed at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from gpu_pool.weak_to_strong.models.batches import CACHE_ELEMENTS, Index
from gpu_pool.weak_to_strong.training.config import TrainConfig

BUCKET_BATCHES = 8
"""Batches are cut from sorted runs of that many: padding 1.2 to 1.4 x, order still random."""
TRAIN_ELEMENTS = 2 * CACHE_ELEMENTS
"""Elements of one state, tokens x width, of a CPU micro-batch (measured: more leave the cache, fewer are all calls)."""
DEVICE_TOKENS = 16_384
"""Padded tokens of a GPU micro-batch: a 4B model keeps 4 to 6 MB a token without recomputation (not measured)."""


def step_count(n: int, config: TrainConfig) -> int:
    """Optimiser steps of a run over `n` examples."""
    return math.ceil(n / config.batch_size) * config.epochs


def bucketed(lengths: npt.NDArray[np.int64], config: TrainConfig) -> Iterator[Index]:
    """Indices of one batch after the other, all epochs; every example once an epoch."""
    rng = np.random.default_rng(config.seed)
    for number in range(config.epochs):
        yield from epoch(lengths, config.batch_size, rng, number)


def epoch(lengths: npt.NDArray[np.int64], size: int, rng: np.random.Generator, number: int) -> Iterator[Index]:
    """Indices of the batches of epoch `number`.

    Texts of a batch have similar lengths: it is cut from a sorted run of a random order, and batches are shuffled.
    Which texts come together is the seed's (`rng`); whether a step gets short or long ones is the epoch's, so that
    seeds which are trained together have batches of like shape.
    """
    order, span = rng.permutation(len(lengths)), size * BUCKET_BATCHES
    batches = []
    for start in range(0, len(order), span):
        run = order[start : start + span]
        run = run[np.argsort(lengths[run], kind="stable")]
        batches += [run[at : at + size] for at in range(0, len(run), size)]
    return (batches[i] for i in np.random.default_rng(number).permutation(len(batches)))


def automatic_budget(width: int, device: torch.device) -> int:
    """Padded tokens of a micro-batch when the configuration leaves it open."""
    return DEVICE_TOKENS if device.type == "cuda" else max(64, TRAIN_ELEMENTS // width)
