"""The one fine-tuning loop: length-bucketed batches by token budget, two-row head, fused AdamW.

Promises:
- Deterministic by (model, tokens, targets, config) on one thread; the global random state is neither read nor changed.
- The gradient of a step is that of the mean over its batch, whatever is computed at once; a loss that looks at its
  whole batch sees the whole batch.
- When memory runs out, half as many tokens are computed at once from then on, and the step is done again.
"""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gpu_pool.weak_to_strong.errors import DeadlineError, TrainingError
from gpu_pool.weak_to_strong.losses import is_separable
from gpu_pool.weak_to_strong.models import LabelModel, Tokens
from gpu_pool.weak_to_strong.models.batches import Index, split
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.training.batches import automatic_budget, bucketed, step_count
from gpu_pool.weak_to_strong.training.config import (
    Progress,
    TrainConfig,
    TrainReport,
    checked_targets,
    finite,
    learning_rate,
)
from gpu_pool.weak_to_strong.training.parts import StepModel, prepare

__all__ = ["Progress", "TrainConfig", "TrainReport", "finetune"]
REPORT_EVERY = 25


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
    config = config or TrainConfig()
    target = checked_targets(targets, len(tokens)).to(model.device)
    weight = None
    if weights is not None:
        weight = torch.from_numpy(finite(weights, (len(tokens),), "weights")).to(model.device)
    start = time.monotonic()
    table = TokenTable.of(tokens)
    step_model = prepare(model, table, config)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in step_model.parameters:
        parameter.requires_grad_(True)
    loop = _Loop(step_model, target, weight, config, automatic_budget(model.width, model.device))
    try:
        loss = loop.run(on_progress, deadline)
    finally:
        for parameter in model.parameters():
            parameter.grad = None
            parameter.requires_grad_(True)
    real = int(step_model.lengths.sum()) * config.epochs
    return TrainReport(loop.steps, time.monotonic() - start, loss, real, loop.padded, table.truncated, loop.budget)


class _Loop:
    """One run's state."""

    def __init__(
        self, model: StepModel, target: torch.Tensor, weight: torch.Tensor | None, config: TrainConfig, budget: int
    ) -> None:
        self.model = model
        self.target = target
        self.weight = weight
        self.config = config
        self.steps = step_count(len(target), config)
        self.padded = 0
        # A loss of single examples may be summed part by part. Any other has to see its batch: computed at once unless
        # the caller gave a budget, else in two passes.
        self._separable = config.drop_share == 0 and is_separable(config.loss)
        whole = config.token_budget is None and not self._separable and target.device.type == "cpu"
        self.budget = config.token_budget or (1 << 40 if whole else budget)
        self._optimizer = torch.optim.AdamW(
            model.parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def run(self, on_progress: Progress | None, deadline: float | None) -> float:
        """All steps; the mean loss of the last epoch."""
        parameters = self.model.parameters
        average = [p.detach().clone() for p in parameters] if self.config.ema else []
        losses: list[float] = []
        recent: list[torch.Tensor] = []  # read back together: a read of each would make a GPU wait at each step
        for step, index in enumerate(bucketed(self.model.lengths, self.config)):
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineError(f"the run's time was over at training step {step} of {self.steps}")
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(step, self.steps, self.config)
            recent.append(self._gradients(index, step / self.steps))
            nn.utils.clip_grad_norm_(parameters, self.config.clip)
            self._optimizer.step()
            if average:
                torch._foreach_lerp_(
                    average, list[torch.Tensor](parameters), 1 - min(self.config.ema, (1 + step) / (10 + step))
                )
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == self.steps:
                losses += self._read(recent, len(losses))
                recent = []
                if on_progress is not None:
                    on_progress(step + 1, self.steps, float(np.mean(losses[-REPORT_EVERY:])))
        for mean, parameter in zip(average, parameters, strict=False):
            parameter.data.copy_(mean)
        return float(np.mean(losses[-(self.steps // self.config.epochs) :]))

    def _read(self, recent: list[torch.Tensor], first: int) -> list[float]:
        values: list[float] = torch.stack(recent).tolist()
        for number, value in enumerate(values):
            if not math.isfinite(value):
                raise TrainingError(
                    f"loss is {value} at step {first + number} of {self.steps} (lr {self.config.lr}); "
                    "lower lr, or check the loss"
                )
        return values

    def _gradients(self, index: Index, done: float) -> torch.Tensor:
        """Leave the gradient of the batch's loss in the parameters; give the loss."""
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            parts = split(index, self.model.lengths, self.budget)
            largest = max(len(part) * int(self.model.lengths[part[0]]) for part in parts)
            try:
                loss = self._at_once(index, done) if len(parts) == 1 else self._in_parts(index, parts, done)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if all(len(part) == 1 for part in parts):
                    raise TrainingError(
                        f"memory is too small for one text of {largest} tokens: lower max_length, or train with lora:r "
                        "or top:k"
                    ) from error
            else:
                self.padded += sum(len(part) * int(self.model.lengths[part[0]]) for part in parts)
                return loss
            # Out here the error, and with it the graph that its traceback holds, is gone.
            self.budget = min(self.budget, largest) // 2
            if self.target.is_cuda:
                torch.cuda.empty_cache()

    def _at_once(self, index: Index, done: float) -> torch.Tensor:
        value = self._loss(self.model.logits(index), index, done)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def _in_parts(self, index: Index, parts: list[Index], done: float) -> torch.Tensor:
        if self._separable:
            total = self.target.new_zeros(())
            for part in parts:
                value = self._loss(self.model.logits(part), part, done) * (len(part) / len(index))
                value.backward()  # type: ignore[no-untyped-call]
                total += value.detach()
            return total
        with torch.no_grad():
            logits = torch.cat([self.model.logits(part) for part in parts])
        logits.requires_grad_(True)
        value = self._loss(logits, np.concatenate(parts), done)
        (toward,) = torch.autograd.grad(value, logits)
        for part, slope in zip(parts, torch.split(toward, [len(part) for part in parts]), strict=True):
            self.model.logits(part).backward(slope)  # type: ignore[no-untyped-call]
        return value.detach()

    def _loss(self, logits: torch.Tensor, index: Index, done: float) -> torch.Tensor:
        """The mean loss of the examples at `index`, without the highest where some are dropped."""
        rows = torch.from_numpy(index)
        loss = self.config.loss(logits, self.target[rows], done)
        if self.weight is not None:
            loss = loss * self.weight[rows]
        if self.config.drop_share == 0:
            return loss.mean()
        after = self.config.drop_after
        share = self.config.drop_share * (min(1.0, done / after) if after > 0 else 1.0)
        keep = max(1, round(len(loss) * (1 - share)))
        return torch.topk(loss, keep, largest=False).values.mean()


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
