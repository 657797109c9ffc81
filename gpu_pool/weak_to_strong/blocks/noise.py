"""Training that is robust to label noise and needs more than a loss: co-teaching and early-learning regularisation.

(Small-loss selection inside a batch is `TrainConfig.drop_share`; GCE and reverse KL are in `losses`.)
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from gpu_pool.weak_to_strong import losses
from gpu_pool.weak_to_strong.blocks.steps import Stepper
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.trainer import TrainConfig
from gpu_pool.weak_to_strong.training.batches import epoch


def small_loss(values: npt.ArrayLike, keep: float) -> npt.NDArray[np.int64]:
    """Indices of the `keep` share of examples with the smallest loss values (n,), smallest first."""
    given = np.asarray(values)
    return np.argsort(given, kind="stable")[: max(1, round(keep * len(given)))]


def co_teach(
    run: MethodRun, labels: FloatArray, config: TrainConfig | None = None, drop: float = 0.4, rise: float = 0.3
) -> tuple[LabelModel, LabelModel]:
    """Two students; in each batch each trains on the examples with the smallest loss under the other.

    Co-teaching: Han et al. 2018, arXiv 1804.06872. The share dropped rises linearly to `drop` over `rise` of the steps.
    The original's networks differ by their initialisation; both students here start from one pretrained model, so the
    first epoch trains them on two disjoint halves.
    """
    config = config or run.protocol
    rng = np.random.default_rng(run.seed)
    halves = np.array_split(rng.permutation(len(labels)), 2)
    given = np.asarray(labels, dtype=np.float32)
    warm = replace(config, epochs=1)
    models = [run.fit(given[half], warm, indices=half) for half in halves]
    epochs = max(1, config.epochs - 1)
    steps = epochs * math.ceil(len(given) / config.batch_size)
    target = torch.from_numpy(np.stack([1 - given, given], axis=1))
    done = 0
    with ExitStack() as stack:
        steppers = [stack.enter_context(Stepper(model, config, steps, run.tokens)) for model in models]
        for number in range(epochs):
            for index in epoch(run.tokens.lengths, config.batch_size, rng, number):
                run.check_deadline()
                share = drop * min(1.0, done / steps / rise) if rise > 0 else drop
                logits = [stepper.logits(index) for stepper in steppers]
                values = [config.loss(own, target[torch.from_numpy(index)].to(own), done / steps) for own in logits]
                chosen = [small_loss(value.detach().cpu().numpy(), 1 - share) for value in values]
                for stepper, own, other in zip(steppers, values, reversed(chosen), strict=True):
                    stepper.step([own[torch.from_numpy(other).to(own.device)].mean()])
                done += 1
    return models[0], models[1]


def elr(
    run: MethodRun,
    labels: FloatArray,
    config: TrainConfig | None = None,
    strength: float = 3.0,
    memory: float = 0.7,
) -> LabelModel:
    """A student held to its own early predictions: `losses.early_learning` with a running mean for each item.

    t <- memory * t + (1 - memory) * p after each visit (Liu et al. 2020, arXiv 2007.00151; strength 3 and memory .7 are
    its values for CIFAR-10). The memory starts at one half.
    """
    config = config or run.protocol
    rng = np.random.default_rng(config.seed)
    given = np.asarray(labels, dtype=np.float32)
    model = run.base.copy(config.trainable)
    target = torch.from_numpy(np.stack([1 - given, given], axis=1))
    past = torch.full((len(given), 2), 0.5)
    with Stepper(model, config, config.epochs * math.ceil(len(given) / config.batch_size), run.tokens) as stepper:
        for number in range(config.epochs):
            for index in epoch(run.tokens.lengths, config.batch_size, rng, number):
                run.check_deadline()
                rows = torch.from_numpy(index)
                logits = stepper.logits(index)
                own = torch.softmax(logits.detach(), -1).cpu()
                past[rows] = memory * past[rows] + (1 - memory) * own
                loss = losses.early_learning(logits, target[rows].to(logits), past[rows].to(logits), strength)
                stepper.step([loss.mean()])
    return model
