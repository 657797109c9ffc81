"""The one fine-tuning loop: length-bucketed batches by token budget, two-row head, fused AdamW.

Promises:
- Deterministic by (model, tokens, targets, config) on one thread; the global random state is neither read nor changed.
- The gradient of a step is that of the mean over its batch, whatever is computed at once; a loss that looks at its
  whole batch sees the whole batch.
- When memory runs out, half as many tokens are computed at once from then on, and the step is done again.
- Several trainings give what each gives by itself, within rounding, whether they are done together or not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy.typing as npt
import torch

from gpu_pool.weak_to_strong.models import LabelModel, Tokens
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.training.batches import automatic_budget
from gpu_pool.weak_to_strong.training.config import Progress, TrainConfig, TrainReport, checked_targets, finite
from gpu_pool.weak_to_strong.training.jobs import Job, blocks
from gpu_pool.weak_to_strong.training.loop import Loop
from gpu_pool.weak_to_strong.training.parts import prepare, release

__all__ = ["Job", "Progress", "TrainConfig", "TrainReport", "finetune", "finetune_many"]


def finetune(
    model: LabelModel,
    tokens: Tokens,
    targets: npt.ArrayLike,
    config: TrainConfig | None = None,
    *,
    weights: npt.ArrayLike | None = None,
    on_progress: Progress | None = None,
    deadline: float | None = None,
) -> TrainReport:
    """Train `model` in place on texts `tokens` (n) towards `targets`, (n,) = P(label 1) or (n, 2).

    `weights` (n,) multiply each example's loss; `on_progress(step, steps, loss)` is called every 25 steps; at
    `deadline` (time.monotonic seconds) DeadlineError is raised between two steps. TrainingError: wrong shapes, a value
    that is not finite, a loss that becomes so (found within 25 steps), a text that does not fit into memory by itself.
    """
    job = Job(model, tokens, targets, config or TrainConfig(), weights)
    return _train([job], on_progress, deadline)[0]


def finetune_many(
    jobs: Sequence[Job],
    *,
    on_progress: Progress | None = None,
    deadline: float | None = None,
    at_once: int | None = None,
) -> list[TrainReport]:
    """Do every job like `finetune`; neighbours that can be stacked are trained together where that is faster.

    Each job keeps its own order of examples, targets, weights and random streams. `at_once` overrides how many are
    stacked (1: none). A report of a job that was trained with others has its share of their seconds and padding;
    `on_progress` gets their mean loss. Errors as of `finetune`; the jobs behind the one that failed are not begun.
    """
    return [report for block in blocks(jobs, at_once) for report in _train(block, on_progress, deadline)]


def _train(jobs: Sequence[Job], on_progress: Progress | None, deadline: float | None) -> list[TrainReport]:
    models, configs = [job.model for job in jobs], [job.config for job in jobs]
    device = models[0].device
    targets = [checked_targets(job.targets, len(job.tokens)).to(device) for job in jobs]
    weights = [
        None if job.weights is None else torch.from_numpy(finite(job.weights, (len(job.tokens),), "weights")).to(device)
        for job in jobs
    ]
    start = time.monotonic()
    tables = [TokenTable.of(job.tokens) for job in jobs]
    try:
        step_model = prepare(models, tables, configs)
        loop = Loop(step_model, targets, weights, configs, automatic_budget(models[0].width, device))
        losses = loop.run(on_progress, deadline)
        step_model.finish()
    finally:
        release(models)
    seconds, padded = (time.monotonic() - start) / len(jobs), loop.padded // len(jobs)
    return [
        TrainReport(loop.steps, seconds, loss, int(lengths.sum()) * config.epochs, padded, table.truncated, loop.budget)
        for loss, lengths, config, table in zip(losses, step_model.lengths, configs, tables, strict=True)
    ]
