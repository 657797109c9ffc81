"""How to fine-tune, what comes back, and the checks of what goes in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from cluster.training import BATCH, BETAS, EPOCHS, LR, PUBLISHED_TRAINABLE
from gpu_pool.weak_to_strong.errors import TrainingError
from gpu_pool.weak_to_strong.losses import Loss, cross_entropy

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How the engine fine-tunes; the defaults are those of `cluster.training.Training`.

    `warmup` is a share of all steps; `ema` the decay of a weight average used at the end (0: off); `drop_share` leaves
    that share of highest-loss examples out of each batch, after `drop_after` of training.

    `trainable`: `full`; `top:k`, the k upper layers, final norm and separate label rows on cached states of the frozen
    rest; `head`, the label rows alone; `lora:r`, adapters of rank r on every linear layer; `lora:r:k`, those of the k
    upper layers, on cached states of the rest. `token_budget` is how many
    padded tokens of a batch are computed at once, with gradients added up to exactly those of the whole batch; None
    chooses what fits a core's cache or a GPU.
    """

    epochs: int = EPOCHS
    batch_size: int = BATCH
    lr: float = LR
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    loss: Loss = cross_entropy
    trainable: str = PUBLISHED_TRAINABLE
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    drop_share: float = 0.0
    drop_after: float = 0.3
    seed: int = 0
    betas: tuple[float, float] = BETAS
    lora_alpha: float = 32.0
    token_budget: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0:
            raise TrainingError(f"epochs, batch_size and lr must be positive: {self}")
        if self.schedule not in ("linear", "cosine", "constant"):
            raise TrainingError(f"schedule {self.schedule!r}: expected linear, cosine or constant")
        if not (0 <= self.ema < 1 and 0 <= self.drop_share < 1 and 0 <= self.warmup < 1):
            raise TrainingError(f"ema, drop_share and warmup must lie in [0, 1): {self}")
        if not re.fullmatch(r"full|head|(top|lora):[1-9]\d{0,3}|lora:[1-9]\d{0,3}:[1-9]\d{0,3}", self.trainable):
            raise TrainingError(f"trainable {self.trainable!r}: expected full, head, top:k, lora:r or lora:r:k")
        if self.token_budget is not None and self.token_budget < 1:
            raise TrainingError(f"token_budget must be above 0: {self}")
        if not self.lora_alpha > 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise TrainingError(f"lora_alpha must be above 0 and betas in [0, 1): {self}")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training run did.

    `loss` is the mean over the last epoch; `tokens` counts real tokens over all epochs, `padded` those computed;
    `truncated` how many texts were cut; `token_budget` what it was at the end, lower than at the start when memory ran
    out.
    """

    steps: int
    seconds: float
    loss: float
    tokens: int = 0
    padded: int = 0
    truncated: int = 0
    token_budget: int = 0


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of a step: linear warm-up, then the schedule down to 0 (or constant)."""
    rise = max(1, int(config.warmup * steps))
    if step < rise:
        return config.lr * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    if config.schedule == "linear":
        return config.lr * (1 - done)
    return config.lr * (0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1.0)


def checked_targets(targets: npt.ArrayLike, n: int) -> torch.Tensor:
    """Targets as (n, 2) float32; raises TrainingError when they are not n probabilities."""
    if n == 0:
        raise TrainingError("there is no example to train on")
    given = np.asarray(targets, dtype=np.float32)
    both = np.stack([1 - given, given], axis=-1) if given.ndim == 1 else given
    checked = torch.from_numpy(finite(both, (n, 2), "targets"))
    if float(checked.min()) < -1e-6 or float((checked.sum(-1) - 1).abs().max()) > 1e-3:
        raise TrainingError("targets must be probabilities: (n,) of P(label 1), or (n, 2) rows that sum to 1")
    return checked


def finite(values: npt.ArrayLike, shape: tuple[int, ...], name: str) -> npt.NDArray[np.float32]:
    """`values` as float32 of that shape; raises TrainingError otherwise."""
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.shape != shape:
        raise TrainingError(f"{name} have shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise TrainingError(f"{name} hold a value that is not finite")
    return array
