"""The one fine-tuning loop: length-bucketed batches, two-row head, fused AdamW.

Promise: deterministic by (model, tokens, targets, config) on one thread; the global random state is neither read nor
changed. `trainable` chooses what moves: `full`; `top:k`, the k upper layers, final norm and separate label rows on
cached states of the frozen rest; `head`, the label rows alone.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gpu_pool.weak_to_strong.errors import DeadlineError, TrainingError
from gpu_pool.weak_to_strong.losses import Loss, cross_entropy
from gpu_pool.weak_to_strong.models import PREDICT_BATCH, LabelModel, Tokens, length_sorted, pad

Progress = Callable[[int, int, float], None]
BUCKET_BATCHES = 8  # batches are cut from sorted runs of that many: padding 1.2 to 1.4 x, order still random
REPORT_EVERY = 25


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to fine-tune. `warmup` is a share of all steps; `ema` the decay of a weight average used at the end (0: off);
    `drop_share` leaves that share of highest-loss examples out of each batch, after `drop_after` of training.
    """

    epochs: int = 5
    batch_size: int = 32
    lr: float = 5e-4
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    loss: Loss = cross_entropy
    trainable: str = "full"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    drop_share: float = 0.0
    drop_after: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0:
            raise TrainingError(f"epochs, batch_size and lr must be positive: {self}")
        if self.schedule not in ("linear", "cosine", "constant"):
            raise TrainingError(f"schedule {self.schedule!r}: expected linear, cosine or constant")
        if not (0 <= self.ema < 1 and 0 <= self.drop_share < 1 and 0 <= self.warmup < 1):
            raise TrainingError(f"ema, drop_share and warmup must lie in [0, 1): {self}")
        if not re.fullmatch(r"full|head|top:[1-9]\d*", self.trainable):
            raise TrainingError(f"trainable {self.trainable!r}: expected full, head or top:k")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training run did; `loss` is the mean over the last epoch."""

    steps: int
    seconds: float
    loss: float


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
    that is not finite, a loss that becomes so.
    """
    config = config or TrainConfig()
    target = _targets(targets, len(tokens))
    weight = None if weights is None else torch.from_numpy(_finite(weights, (len(tokens),), "weights"))
    start = time.monotonic()
    step_model = _prepare(model, tokens, config.trainable)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in step_model.parameters:
        parameter.requires_grad_(True)
    try:
        steps, loss = _loop(step_model, tokens, target, weight, config, on_progress, deadline)
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
    return TrainReport(steps, time.monotonic() - start, loss)


@dataclass(frozen=True, slots=True)
class _StepModel:
    """What one training step needs: the moving parameters, and logits (b, 2) of the examples at an index."""

    parameters: list[nn.Parameter]
    logits: Callable[[npt.NDArray[np.int64]], torch.Tensor]


def _prepare(model: LabelModel, tokens: Tokens, trainable: str) -> _StepModel:
    if trainable == "full":
        return _StepModel(list(model.parameters()), lambda index: model(*pad([tokens[i] for i in index])))
    untie(model)
    moving = [model.label_head] if model.label_head is not None else []
    depth = model.layers
    if trainable.startswith("top:"):
        depth = model.layers - int(trainable[4:])
        if depth < 0:
            raise TrainingError(f"trainable {trainable!r}: the model has {model.layers} layers")
        top = [*model.lm.model.layers[depth:].parameters(), *model.lm.model.norm.parameters()]
        moving = [*moving, *top]
    states = cache_states(model, tokens, depth)

    def logits(index: npt.NDArray[np.int64]) -> torch.Tensor:
        batch = nn.utils.rnn.pad_sequence([states[i] for i in index], batch_first=True)
        last = torch.tensor([len(states[i]) - 1 for i in index])
        return model.last_logits(model.run_layers(batch, depth, model.layers), last)

    return _StepModel(moving, logits)


def untie(model: LabelModel) -> None:
    """Give the model label rows of its own, equal to the head's, so that the language model stays as it is."""
    if model.label_head is None:
        model.label_head = nn.Parameter(model.label_rows().detach().clone())


@torch.no_grad()
def cache_states(model: LabelModel, tokens: Tokens, depth: int) -> list[torch.Tensor]:
    """States (length, d) of each text after `depth` layers; with all layers, of the last position only (1, d)."""
    out: list[torch.Tensor] = [torch.empty(0)] * len(tokens)
    for index in length_sorted(tokens, PREDICT_BATCH):
        ids, last = pad([tokens[i] for i in index])
        state = model.run_layers(model.embed(ids), 0, depth)
        for row, i in enumerate(index):
            end = int(last[row]) + 1
            begin = end - 1 if depth == model.layers else 0
            out[i] = state[row, begin:end].clone()
    return out


def _loop(
    model: _StepModel,
    tokens: Tokens,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    config: TrainConfig,
    on_progress: Progress | None,
    deadline: float | None,
) -> tuple[int, float]:
    optimizer = torch.optim.AdamW(
        model.parameters, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    steps = math.ceil(len(tokens) / config.batch_size) * config.epochs
    average = [p.detach().clone() for p in model.parameters] if config.ema else []
    losses: list[float] = []
    for step, index in enumerate(_batches(tokens, config)):
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineError(f"the run's time was over at training step {step} of {steps}")
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(step, steps, config)
        rows = torch.from_numpy(index)
        loss = config.loss(model.logits(index), target[rows], step / steps)
        value = _reduce(loss if weight is None else loss * weight[rows], step / steps, config)
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"loss is {losses[-1]} at step {step} of {steps} (lr {config.lr}); lower lr or check it"
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters, config.clip)
        optimizer.step()
        for mean, parameter in zip(average, model.parameters, strict=False):
            mean.lerp_(parameter.detach(), 1 - min(config.ema, (1 + step) / (10 + step)))
        if on_progress is not None and ((step + 1) % REPORT_EVERY == 0 or step + 1 == steps):
            on_progress(step + 1, steps, float(np.mean(losses[-REPORT_EVERY:])))
    optimizer.zero_grad(set_to_none=True)
    for mean, parameter in zip(average, model.parameters, strict=False):
        parameter.data.copy_(mean)
    return steps, float(np.mean(losses[-(steps // config.epochs) :]))


def _batches(tokens: Tokens, config: TrainConfig) -> Iterator[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(config.seed)
    lengths = np.array([len(row) for row in tokens])
    size, span = config.batch_size, config.batch_size * BUCKET_BATCHES
    for _ in range(config.epochs):
        order = rng.permutation(len(tokens))
        batches = []
        for start in range(0, len(order), span):
            run = order[start : start + span]
            run = run[np.argsort(lengths[run], kind="stable")]
            batches += [run[at : at + size] for at in range(0, len(run), size)]
        yield from (batches[i] for i in rng.permutation(len(batches)))


def _reduce(loss: torch.Tensor, done: float, config: TrainConfig) -> torch.Tensor:
    if config.drop_share == 0:
        return loss.mean()
    share = config.drop_share * min(1.0, done / config.drop_after) if config.drop_after > 0 else config.drop_share
    keep = max(1, round(len(loss) * (1 - share)))
    return torch.topk(loss, keep, largest=False).values.mean()


def _schedule(step: int, steps: int, config: TrainConfig) -> float:
    rise = max(1, int(config.warmup * steps))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    if config.schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1.0


def _targets(targets: npt.ArrayLike, n: int) -> torch.Tensor:
    if n == 0:
        raise TrainingError("there is no example to train on")
    given = np.asarray(targets, dtype=np.float32)
    both = np.stack([1 - given, given], axis=-1) if given.ndim == 1 else given
    checked = torch.from_numpy(_finite(both, (n, 2), "targets"))
    if float(checked.min()) < -1e-6 or float((checked.sum(-1) - 1).abs().max()) > 1e-3:
        raise TrainingError("targets must be probabilities: (n,) of P(label 1), or (n, 2) rows that sum to 1")
    return checked


def _finite(values: npt.ArrayLike, shape: tuple[int, ...], name: str) -> npt.NDArray[np.float32]:
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.shape != shape:
        raise TrainingError(f"{name} have shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise TrainingError(f"{name} hold a value that is not finite")
    return array
