"""Losses on two label logits against soft targets.

A loss takes logits (b, 2), targets (b, 2) with rows that sum to 1, and `done`, the share of training that is over
(0 to 1); it gives one value per example (b,). p is the student's softmax, w the target.

Promise: asked twice with the same settings, this module gives equal losses, which keep no state: runs that train with
them can be told to be alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def separable(loss: Loss) -> Loss:
    """Mark a loss in which no example depends on the others of its batch: the trainer may then sum it part by part."""
    loss.__dict__["separable"] = True
    return loss


def is_separable(loss: Loss) -> bool:
    """Whether a loss was marked so."""
    return bool(getattr(loss, "separable", False))


@separable
def cross_entropy(logits: torch.Tensor, target: torch.Tensor, done: float) -> torch.Tensor:
    """-sum_k w_k log p_k. The naive student of Burns et al. 2023 (arXiv 2312.09390)."""
    del done
    return -(target * functional.log_softmax(logits, -1)).sum(-1)


def logconf(strength: float = 0.5, warmup: float = 0.2) -> Loss:
    """Auxiliary confidence loss of Burns et al. 2023: cross entropy to (1 - c) w + c s.

    s is the student's own hardened prediction, cut at the batch quantile that keeps the weak labels' class share; c
    rises linearly to `strength` over the first `warmup` of training and stays there.

    Which is whose: the cut is that of the released code (openai/weak-to-strong, loss.py), whose c jumps from a tenth to
    its full value behind the warm-up (its issue 33); a rise without a jump is that of the published researchers' code.
    The warm-up of 20 % and the strengths .75 for large and .5 for small students are quoted from the paper (appendix
    A.4), whose own rule for the cut was not compared.
    """
    return _LogConf(strength, warmup)


def product(power: float = 1.0, warmup: float = 0.2, weak_power: float = 1.0) -> Loss:
    """Product confidence: cross entropy to the detached target proportional to p^b w^a, a = `weak_power`.

    b rises linearly from 0 to `power` over the first `warmup` of training, like the confidence loss's weight (the
    original, openai/weak-to-strong, has the setting and does not use it).
    """
    return _Product(power, warmup, weak_power)


def gce(q: float = 0.7) -> Loss:
    """Generalised cross entropy (1 - (sum_k w_k p_k)^q) / q, Zhang & Sabuncu 2018 (arXiv 1805.07836); q to 0 is CE."""
    return _Gce(q)


def reverse_kl(floor: float = 0.02) -> Loss:
    """KL(p || w) = sum_k p_k (log p_k - log w_k), mode seeking (arXiv 2502.11107); w is kept `floor` away from 0."""
    return _ReverseKl(floor)


@dataclass(frozen=True)
class _LogConf:
    strength: float
    warmup: float

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, done: float) -> torch.Tensor:
        share = self.strength * min(1.0, done / self.warmup) if self.warmup > 0 else self.strength
        own = torch.softmax(logits.detach(), -1)[:, 1]
        cut = torch.quantile(own, 1.0 - target[:, 1].mean())
        hard = (own > cut).to(target.dtype)
        mixed = (1 - share) * target + share * torch.stack([1 - hard, hard], -1)
        return cross_entropy(logits, mixed, done)


@dataclass(frozen=True)
class _Product:
    power: float
    warmup: float
    weak_power: float
    separable: ClassVar[bool] = True

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, done: float) -> torch.Tensor:
        exponent = self.power * min(1.0, done / self.warmup) if self.warmup > 0 else self.power
        mixed = torch.softmax(logits.detach(), -1) ** exponent * target.clamp_min(1e-6) ** self.weak_power
        return cross_entropy(logits, mixed / mixed.sum(-1, keepdim=True), done)


@dataclass(frozen=True)
class _Gce:
    q: float
    separable: ClassVar[bool] = True

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, done: float) -> torch.Tensor:
        del done
        right = (torch.softmax(logits, -1) * target).sum(-1).clamp_min(1e-6)
        return (1 - right**self.q) / self.q


@dataclass(frozen=True)
class _ReverseKl:
    floor: float
    separable: ClassVar[bool] = True

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, done: float) -> torch.Tensor:
        del done
        log_p = functional.log_softmax(logits, -1)
        return (log_p.exp() * (log_p - target.clamp(self.floor, 1 - self.floor).log())).sum(-1)


def early_learning(
    logits: torch.Tensor, target: torch.Tensor, memory: torch.Tensor, strength: float = 3.0
) -> torch.Tensor:
    """Cross entropy + strength log(1 - sum_k p_k t_k), with t `memory` (b, 2): the running mean of past predictions.

    Early-learning regularisation, Liu et al. 2020 (arXiv 2007.00151): where t is sure, moving p away from it costs. Not
    a `Loss`, because it needs a memory for each item (`blocks.elr` keeps it).
    """
    inner = (torch.softmax(logits, -1) * memory).sum(-1).clamp(1e-4, 1 - 1e-4)
    return cross_entropy(logits, target, 1.0) + strength * (1 - inner).log()
