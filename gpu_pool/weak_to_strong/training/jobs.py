"""One training to do, and which of several are done together.

The rule below comes from `python scripts/bench/seeds.py`, CPU seconds one by one / together of five seeds on one core
of a busy machine: full training at width 16, 24, 32, 48, 64 gains 2.4, 1.7, 1.3, 1.2, 1.2 times (three seeds at 64 once
lost, .96); adapters at 64 and 128 gain 1.4 and 1.0 to 1.3; one upper layer 2.4 and the label rows 4.4, nearly all of it
because the frozen part is run once for all seeds that share their texts. What does not always gain is not stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy.typing as npt

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.models import LabelModel, Tokens
from gpu_pool.weak_to_strong.models.stack import can_stack, share_frozen
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.training.batches import step_count
from gpu_pool.weak_to_strong.training.config import TrainConfig

MOST = 8
"""Stacked at once: more only take more memory."""
WIDEST_FULL = 32
WIDEST_ADAPTERS = 64
DEVICE_ELEMENTS = 1 << 21
"""Elements of one state, tokens x width, from which a GPU's kernels are no longer waiting for their launch: 4 MB in
half precision, about two microseconds of memory traffic. An estimate, not measured.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Train `model` in place on `tokens` (n) towards `targets`, as in `trainer.finetune`."""

    model: LabelModel
    tokens: Tokens
    targets: npt.ArrayLike
    config: TrainConfig
    weights: npt.ArrayLike | None = None


def together(jobs: Sequence[Job]) -> bool:
    """Whether `jobs` can be trained as one stack: settings that differ in nothing but the seed, as many steps, models
    of one shape with the fast decoder, one memory for what stays frozen.
    """
    first = jobs[0]
    steps = step_count(len(first.tokens), first.config)
    models, trainable = [job.model for job in jobs], first.config.trainable
    if len(set(map(id, models))) < len(models):
        return False
    same = all(
        replace(job.config, seed=0) == replace(first.config, seed=0)
        and step_count(len(job.tokens), job.config) == steps
        for job in jobs
    )
    try:
        return same and can_stack(models) and (trainable == "full" or share_frozen(models, trainable))
    except ModelError:
        return False  # a model cannot be trained so at all: its own training says why


def blocks(jobs: Sequence[Job], at_once: int | None = None) -> list[list[Job]]:
    """`jobs` in order, cut into blocks that are trained together: of at most `at_once`, else as large as pays."""
    out: list[list[Job]] = []
    for job in jobs:
        if out and joins(job, out[-1], at_once):
            out[-1].append(job)
        else:
            out.append([job])
    return out


def joins(job: Job, block: Sequence[Job], at_once: int | None = None) -> bool:
    """Whether `job` can be trained with `block`, and at most `at_once` or else as many as pay are together then."""
    return len(block) < (at_once or pays(job)) and together([*block, job])


def pays(job: Job) -> int:
    """How many trainings like `job` are best done at once."""
    model, trainable = job.model, job.config.trainable
    if model.device.type == "cuda":
        lengths = TokenTable.of(job.tokens).lengths
        elements = job.config.batch_size * float(lengths.mean()) * model.width
        return max(1, min(MOST, int(DEVICE_ELEMENTS / elements)))
    widest = {"full": WIDEST_FULL, "lora": WIDEST_ADAPTERS}.get(trainable.partition(":")[0])
    return MOST if widest is None or model.width <= widest else 1
