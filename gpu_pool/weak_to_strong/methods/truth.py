"""Training on truth: the weak teacher and the strong ceiling. Trusted code only; no method sees these labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.run import Log, RunParams
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import Job, finetune_many
from gpu_pool.weak_to_strong.training.jobs import pays

MIN_MINORITY = 0.05  # a teacher that gives one label to more than 95 % of its own items has collapsed
ATTEMPTS = 3


def train_on_truth(
    base: LabelModel, items: ItemSet, labels: npt.ArrayLike, params: RunParams, log: Log | None = None
) -> Student:
    """`base` fine-tuned on the true `labels` (n,) by the protocol in `params`; the mean of `members` if above 1."""
    return train_seeds_on_truth(base, base.tokenize(items), labels, [params], log)[0]


def train_seeds_on_truth(
    base: LabelModel, tokens: TokenTable, labels: npt.ArrayLike, runs: Sequence[RunParams], log: Log | None = None
) -> list[Student]:
    """`train_on_truth` on texts `tokens` (n) for each of `runs`, which differ in the seed; stacked where that pays."""
    params = runs[0]
    end = None if params.seconds is None else time.monotonic() + params.seconds
    configs = [member_params(run, number).train_config() for run in runs for number in range(run.members)]
    models: list[LabelModel] = [base] * len(configs)
    waiting = list(range(len(configs)))
    for attempt in range(ATTEMPTS):
        for number in waiting:
            models[number] = base.copy(configs[number].trainable)
        jobs = [
            Job(models[n], tokens, labels, replace(configs[n], seed=configs[n].seed + 7919 * attempt)) for n in waiting
        ]
        reports = finetune_many(jobs, deadline=end)
        shares = [_ones(models[n], tokens) for n in waiting]
        for report, ones in zip(reports, shares, strict=True):
            if log is not None:
                log("trained on truth", steps=report.steps, seconds=report.seconds, loss=report.loss, ones=ones)
        waiting = [n for n, ones in zip(waiting, shares, strict=True) if min(ones, 1 - ones) < MIN_MINORITY]
        if not waiting:
            break
    students, start = [], 0
    for run in runs:
        members = [Student.from_model(model, base) for model in models[start : start + run.members]]
        students.append(members[0] if len(members) == 1 else Student.ensemble(members))
        start += run.members
    return students


def seeds_at_once(base: LabelModel, tokens: TokenTable, labels: npt.ArrayLike, params: RunParams) -> int:
    """How many runs like `params` `train_seeds_on_truth` is best given at once: a run's members count, too."""
    return max(1, pays(Job(base, tokens, labels, params.train_config())) // params.members)


def member_params(params: RunParams, member: int) -> RunParams:
    """Parameters of one member: its own stream of seeds, the same for every run of that seed."""
    return params.model_copy(update={"seed": params.seed + 100_003 * member})


def _ones(model: LabelModel, tokens: TokenTable) -> float:
    """The share of the texts that the model gives label 1."""
    logits = model.logits(tokens)
    return float(np.mean(logits[:, 1] > logits[:, 0]))
