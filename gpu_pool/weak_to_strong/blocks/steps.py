"""Training steps that the one loop of `trainer` has no place for: two students at once, memories of items, text."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from gpu_pool.weak_to_strong.errors import TrainingError
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, Tokens
from gpu_pool.weak_to_strong.models.batches import Index, inference_batches, padded
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import TrainConfig
from gpu_pool.weak_to_strong.training.config import learning_rate


class Stepper:
    """One model, all of it, under AdamW with the schedule of `config` over `steps`."""

    def __init__(self, model: LabelModel, config: TrainConfig, steps: int) -> None:
        self.model = model
        self._config = config
        self._steps = steps
        self._step = 0
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def step(self, loss: torch.Tensor) -> float:
        """Take one step down `loss`; TrainingError when it is not finite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"loss is {value} at step {self._step} of {self._steps} (lr {self._config.lr})")
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._step, self._steps, self._config)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
        self._optimizer.step()
        self._step += 1
        return value


def batch_logits(model: LabelModel, tokens: TokenTable, index: Index) -> torch.Tensor:
    """Label logits (b, 2) of the texts at `index`, with gradient."""
    logits: torch.Tensor = model(*padded(tokens, index, model.device))
    return logits


@torch.no_grad()
def last_states(model: LabelModel, tokens: Tokens, layer: int) -> FloatArray:
    """States (n, d) at the last token after `layer` layers (before the final norm)."""
    out = np.zeros((len(tokens), model.width), dtype=np.float32)
    for index, ids, last in inference_batches(tokens, model.width, model.device):
        state = model.run_layers(model.embed(ids), 0, layer)
        out[index] = state[torch.arange(len(last), device=last.device), last].float().cpu().numpy()
    return out
