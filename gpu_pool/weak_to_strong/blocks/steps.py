"""Training steps that the one loop of `trainer` has no place for: two students at once, memories of items, text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import TracebackType

import numpy as np
import torch
from torch import nn

from gpu_pool.weak_to_strong.errors import TrainingError
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, Tokens
from gpu_pool.weak_to_strong.models.batches import Index
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import TrainConfig
from gpu_pool.weak_to_strong.training import parts
from gpu_pool.weak_to_strong.training.config import learning_rate


class Stepper:
    """One model under AdamW with the schedule of `config` over `steps`; what moves is what `run.fit` would move.

    That is `config.trainable`, in float32 and in memory of its own when `model` is a copy made for it
    (`run.base.copy(config.trainable)`); the frozen rest is never written. A context manager: at its end the model is an
    ordinary one again.
    """

    def __init__(self, model: LabelModel, config: TrainConfig, steps: int, tokens: TokenTable | None = None) -> None:
        """`tokens` (n) are the texts that `logits` reads. Raises TrainingError when the model cannot be trained so."""
        self.model = model
        self._config = config
        self._steps = steps
        self._step = 0
        self._part = None if tokens is None else parts.prepare([model], [tokens], [config])
        self._parameters = parts.ready(model, config) if self._part is None else self._part.parameters
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=model.device.type == "cuda",
        )

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        parts.release([self.model])

    def logits(self, index: Index) -> torch.Tensor:
        """Label logits (b, 2) of the texts at `index`, with gradient."""
        assert self._part is not None, "a stepper without tokens has no logits"
        return self._part.logits([index])[0]

    def step(self, losses: Iterable[torch.Tensor]) -> float:
        """One step down the sum of `losses`, which is returned; TrainingError when it is not finite.

        Each loss is asked for when the graph of the one before is gone, so a generator holds one at a time.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._step, self._steps, self._config)
        self._optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for loss in losses:
            value += float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(f"loss is {value} at step {self._step} of {self._steps} (lr {self._config.lr})")
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
        self._optimizer.step()
        self._step += 1
        return value


@torch.no_grad()
def last_states(model: LabelModel, tokens: Tokens, layer: int) -> FloatArray:
    """States (n, d) at the last token after `layer` layers (before the final norm)."""
    out = np.zeros((len(tokens), model.width), dtype=np.float32)

    def batch(index: Index, ids: torch.Tensor, last: torch.Tensor) -> None:
        state = model.run_layers(model.embed(ids), 0, layer)
        out[index] = state[torch.arange(len(last), device=last.device), last].float().cpu().numpy()

    model.each_batch(tokens, batch)
    return out
