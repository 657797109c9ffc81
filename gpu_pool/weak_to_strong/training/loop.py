"""The loop of one training, or of several stacked ones whose steps are taken together.

Everything is kept by member: batches, losses, gradient norms. A member's numbers never depend on another's, because
its loss reaches its own slice of the parameters alone, and the optimiser works element by element.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gpu_pool.weak_to_strong.errors import DeadlineError, TrainingError
from gpu_pool.weak_to_strong.losses import is_separable
from gpu_pool.weak_to_strong.models.batches import Index, moved, split_blocks
from gpu_pool.weak_to_strong.models.memory import out_of_memory, release
from gpu_pool.weak_to_strong.training.batches import bucketed, step_count
from gpu_pool.weak_to_strong.training.config import Progress, TrainConfig, learning_rate
from gpu_pool.weak_to_strong.training.parts import Part, StepModel

REPORT_EVERY = 25


class Loop:
    """One run's state: S members with targets (n_s, 2), weights (n_s,) or None, settings that differ in the seed."""

    def __init__(
        self,
        model: StepModel,
        targets: Sequence[torch.Tensor],
        weights: Sequence[torch.Tensor | None],
        configs: Sequence[TrainConfig],
        budget: int,
    ) -> None:
        self.model = model
        self.targets = targets
        self.weights = weights
        self.configs = configs
        self.config = configs[0]
        self.steps = step_count(len(targets[0]), self.config)
        self.padded = 0
        # A loss of single examples may be summed part by part. Any other has to see its batch: computed at once unless
        # the caller gave a budget, else in two passes.
        self._separable = self.config.drop_share == 0 and is_separable(self.config.loss)
        whole = self.config.token_budget is None and not self._separable and targets[0].device.type == "cpu"
        self.budget = self.config.token_budget or (1 << 40 if whole else budget)
        self._optimizer = torch.optim.AdamW(
            model.parameters,
            lr=self.config.lr,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def run(self, on_progress: Progress | None, deadline: float | None) -> list[float]:
        """All steps; each member's mean loss of the last epoch."""
        parameters = self.model.parameters
        average = [p.detach().clone() for p in parameters] if self.config.ema else []
        losses: list[list[float]] = []
        recent: list[torch.Tensor] = []  # read back together: a read of each would make a GPU wait at each step
        orders = [bucketed(n, config) for n, config in zip(self.model.lengths, self.configs, strict=True)]
        for step, batches in enumerate(zip(*orders, strict=True)):
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineError(f"the run's time was over at training step {step} of {self.steps}")
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(step, self.steps, self.config)
            recent.append(self._gradients(batches, step / self.steps))
            _clip(parameters, self.config.clip, len(self.targets) if self.model.stacked else 0)
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
        ends: list[float] = np.mean(losses[-(self.steps // self.config.epochs) :], axis=0).tolist()
        return ends

    def _read(self, recent: list[torch.Tensor], first: int) -> list[list[float]]:
        values: list[list[float]] = torch.stack(recent).tolist()
        for number, row in enumerate(values):
            for config, value in zip(self.configs, row, strict=True):
                if not math.isfinite(value):
                    seed = f", seed {config.seed}" if len(row) > 1 else ""
                    raise TrainingError(
                        f"loss is {value} at step {first + number} of {self.steps} (lr {config.lr}{seed}); "
                        "lower lr, or check the loss"
                    )
        return values

    def _gradients(self, batches: Part, done: float) -> torch.Tensor:
        """Leave the gradients of the members' losses in the parameters; give the losses (S,)."""
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            parts = split_blocks(batches, self.model.lengths, self.budget)
            sizes = [self._tokens(part) for part in parts]
            try:
                loss = self._at_once(batches, done) if len(parts) == 1 else self._in_parts(batches, parts, done)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if all(len(part[0]) <= 1 for part in parts):
                    raise TrainingError(
                        f"memory is too small for one text of {max(sizes) // len(batches)} tokens: lower max_length, "
                        "or train with lora:r or top:k"
                    ) from error
            else:
                self.padded += sum(sizes)
                return loss
            # Out here the error, and with it the graph that its traceback holds, is gone.
            self.budget = min(self.budget, max(sizes)) // 2
            release()

    def _tokens(self, part: Part) -> int:
        """Padded tokens of a part, all members together."""
        longest = max(
            int(known[index].max()) for known, index in zip(self.model.lengths, part, strict=True) if len(index)
        )
        return max(len(index) for index in part) * len(part) * longest

    def _at_once(self, batches: Part, done: float) -> torch.Tensor:
        value = self._loss(self.model.logits(batches), batches, batches, done)
        value.sum().backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def _in_parts(self, batches: Part, parts: list[list[Index]], done: float) -> torch.Tensor:
        if self._separable:
            total = self.targets[0].new_zeros(len(batches))
            for part in parts:
                value = self._loss(self.model.logits(part), part, batches, done)
                value.sum().backward()  # type: ignore[no-untyped-call]
                total += value.detach()
            return total
        with torch.no_grad():
            pieces = [self.model.logits(part) for part in parts]
        logits = [torch.cat(own).requires_grad_(True) for own in zip(*pieces, strict=True)]
        order = [np.concatenate(own) for own in zip(*parts, strict=True)]
        value = self._loss(logits, order, batches, done)
        slopes = torch.autograd.grad(value.sum(), logits)
        cuts = [torch.split(slope, [len(part[s]) for part in parts]) for s, slope in enumerate(slopes)]
        for number, part in enumerate(parts):
            torch.autograd.backward(self.model.logits(part), [own[number] for own in cuts])
        return value.detach()

    def _loss(self, logits: list[torch.Tensor], part: Part, batches: Part, done: float) -> torch.Tensor:
        """Each member's sum of losses over `part`, divided by the examples of its batch (S,); without the highest
        where some are dropped.
        """
        rows = [moved(torch.from_numpy(index), given.device) for index, given in zip(part, self.targets, strict=True)]
        target = [given[own] for given, own in zip(self.targets, rows, strict=True)]
        if self._separable:
            values = self.config.loss(torch.cat(logits), torch.cat(target), done)
            losses = list(torch.split(values, [len(own) for own in rows]))
        else:
            losses = [self.config.loss(own, toward, done) for own, toward in zip(logits, target, strict=True)]
        for number, weight in enumerate(self.weights):
            if weight is not None:
                losses[number] = losses[number] * weight[rows[number]]
        if self.config.drop_share > 0:
            losses = [self._lowest(loss, done) for loss in losses]
        return torch.stack([own.sum() / len(batch) for own, batch in zip(losses, batches, strict=True)])

    def _lowest(self, loss: torch.Tensor, done: float) -> torch.Tensor:
        """The values of a whole batch (b,) that are kept, scaled so that their sum over b is their mean."""
        after = self.config.drop_after
        share = self.config.drop_share * (min(1.0, done / after) if after > 0 else 1.0)
        keep = max(1, round(len(loss) * (1 - share)))
        return torch.topk(loss, keep, largest=False).values * (len(loss) / keep)


def _clip(parameters: Sequence[nn.Parameter], limit: float, members: int) -> None:
    """Scale the gradient to a norm of at most `limit`; that of each member by itself where parameters are stacked."""
    if not members:
        nn.utils.clip_grad_norm_(parameters, limit)
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    scale = (limit / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
