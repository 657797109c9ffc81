"""Training on truth: the weak teacher and the strong ceiling. Trusted code only; no method sees these labels."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.run import Log, RunParams
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.trainer import finetune

MIN_MINORITY = 0.05  # a teacher that gives one label to more than 95 % of its own items has collapsed
ATTEMPTS = 3


def train_on_truth(
    base: LabelModel, items: ItemSet, labels: npt.ArrayLike, params: RunParams, log: Log | None = None
) -> Student:
    """`base` fine-tuned on the true `labels` (n,) by the protocol in `params`; the mean of `members` if above 1."""
    members = [_one(base, items, labels, member_params(params, number), log) for number in range(params.members)]
    return members[0] if len(members) == 1 else Student.ensemble(members)


def member_params(params: RunParams, member: int) -> RunParams:
    """Parameters of one member: its own stream of seeds, the same for every run of that seed."""
    return params.model_copy(update={"seed": params.seed + 100_003 * member})


def _one(base: LabelModel, items: ItemSet, labels: npt.ArrayLike, params: RunParams, log: Log | None) -> Student:
    tokens = base.tokenize(items)
    end = None if params.seconds is None else time.monotonic() + params.seconds
    config = params.train_config()
    model = base.copy()
    for attempt in range(ATTEMPTS):
        model = base.copy()
        report = finetune(model, tokens, labels, replace(config, seed=config.seed + 7919 * attempt), deadline=end)
        logits = model.logits(tokens)
        ones = float(np.mean(logits[:, 1] > logits[:, 0]))
        if log is not None:
            log("trained on truth", steps=report.steps, seconds=report.seconds, loss=report.loss, ones=ones)
        if min(ones, 1 - ones) >= MIN_MINORITY:
            break
    return Student.from_model(model, base)
