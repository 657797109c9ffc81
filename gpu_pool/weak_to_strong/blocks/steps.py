"""Training steps that the one loop of `trainer` has no place for: two students at once, a memory for each item, text.

Token ids are used through `len` and indexing alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gpu_pool.weak_to_strong.errors import TrainingError
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, Tokens
from gpu_pool.weak_to_strong.trainer import TrainConfig

Index = npt.NDArray[np.int64]
BATCH = 32
WINDOW = 8  # batches are cut from sorted runs of that many, which keeps padding low and the order random


class Stepper:
    """One model under AdamW with the linear schedule of `config` over `steps`."""

    def __init__(self, model: LabelModel, config: TrainConfig, steps: int) -> None:
        self.model = model
        self._config = config
        self._steps = steps
        self._step = 0
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )

    def step(self, loss: torch.Tensor) -> float:
        """Take one step down `loss`; TrainingError when it is not finite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"loss is {value} at step {self._step} of {self._steps} (lr {self._config.lr})")
        rise = max(1, int(self._config.warmup * self._steps))
        left = (self._steps - self._step) / max(1, self._steps - rise)
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.lr * min(1.0, (self._step + 1) / rise, max(0.0, left))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
        self._optimizer.step()
        self._step += 1
        return value


def batches(tokens: Tokens, size: int, rng: np.random.Generator) -> Iterator[Index]:
    """Index batches of one epoch in random order, texts of like length together."""
    lengths = np.array([len(tokens[i]) for i in range(len(tokens))])
    order = rng.permutation(len(lengths))
    out = []
    for start in range(0, len(order), size * WINDOW):
        run = order[start : start + size * WINDOW]
        run = run[np.argsort(lengths[run], kind="stable")]
        out += [run[at : at + size] for at in range(0, len(run), size)]
    return (out[i] for i in rng.permutation(len(out)))


def padded(model: LabelModel, tokens: Tokens, index: Index) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids (b, t) and the position of each last token (b,), on the model's device."""
    rows = [torch.from_numpy(np.asarray(tokens[int(i)], dtype=np.int64)) for i in index]
    device = next(model.parameters()).device
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device), last


def batch_logits(model: LabelModel, tokens: Tokens, index: Index) -> torch.Tensor:
    """Label logits (b, 2) of the texts at `index`, with gradient."""
    logits: torch.Tensor = model(*padded(model, tokens, index))
    return logits


@torch.no_grad()
def last_states(model: LabelModel, tokens: Tokens, layer: int) -> FloatArray:
    """States (n, d) at the last token after `layer` layers (before the final norm)."""
    out = np.zeros((len(tokens), model.width), dtype=np.float32)
    order = np.argsort([len(tokens[i]) for i in range(len(tokens))], kind="stable")
    for start in range(0, len(order), BATCH):
        index = order[start : start + BATCH]
        ids, last = padded(model, tokens, index)
        state = model.run_layers(model.embed(ids), 0, layer)
        out[index] = state[torch.arange(len(last), device=last.device), last].float().cpu().numpy()
    return out
