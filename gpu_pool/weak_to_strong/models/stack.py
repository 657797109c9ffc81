"""Several models of one shape as one: moving parameters stacked (S, ...), frozen ones shared, batched products.

A batch is S blocks of equally many rows (S * b, t), block s for model s. Every product, norm and table of a stacked
parameter works on its own block, so no model's numbers reach another's. Only for models with the fast decoder.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gpu_pool.weak_to_strong.models.decoder import Decoder
from gpu_pool.weak_to_strong.models.label_model import LabelModel


class Stack:
    """S models as one. `parameters` are stacked copies of what moves; `unstack` writes them back into the models."""

    def __init__(self, models: Sequence[LabelModel], trainable: str) -> None:
        """`models` must pass `can_stack` for `trainable`, and be ready to train so (adapters put in, rows untied)."""
        self.size = len(models)
        self._first = models[0]
        self._moving = [model.moving(trainable) for model in models]
        self.parameters = [
            nn.Parameter(torch.stack([p.detach() for p in same])) for same in zip(*self._moving, strict=True)
        ]
        memo: dict[int, Any] = {id(p): p for p in self._first.lm.parameters()}
        memo |= {id(p): own for p, own in zip(self._moving[0], self.parameters, strict=True)}
        self._lm = copy.deepcopy(self._first.lm, memo)
        _batch_products(self._lm)
        self.decoder = Decoder(self._lm)
        heads = [model.label_head for model in models]
        self._head = None if heads[0] is None else memo.get(id(heads[0]))
        if self._head is None and heads[0] is not None:
            self._head = torch.stack([head.detach() for head in heads if head is not None])

    def logits(self, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Label logits (S, b, 2), float32, of right-padded ids (S * b, t)."""
        at = last if self._first.pool == "last" else torch.zeros_like(last)
        with self._first.precision():
            return self.read(self.decoder.top(self.decoder.embed(ids), 0, at))

    def last_logits(self, state: torch.Tensor, last: torch.Tensor, start: int) -> torch.Tensor:
        """Label logits (S, b, 2) from states (S * b, t, d) below layer `start`."""
        at = last if self._first.pool == "last" else torch.zeros_like(last)
        with self._first.precision():
            return self.read(self.decoder.top(state, start, at))

    def read(self, top: torch.Tensor) -> torch.Tensor:
        """Label logits (S, b, 2) from outputs (S * b, d) after the final norm."""
        blocks = top.view(self.size, -1, top.shape[-1])
        rows = self._head
        if rows is None:
            rows = self._lm.get_output_embeddings().weight[..., self._first.label_ids, :]
        return torch.matmul(blocks, rows.transpose(-1, -2).to(top.dtype)).float()

    @torch.no_grad()
    def unstack(self) -> None:
        """Write every model's own slice into its parameters."""
        for stacked, same in zip(self.parameters, zip(*self._moving, strict=True), strict=True):
            for value, parameter in zip(stacked, same, strict=True):
                parameter.copy_(value)


def can_stack(models: Sequence[LabelModel]) -> bool:
    """Whether `models` have the fast decoder, one shape and one way to read the answer."""
    first = models[0]
    shapes = [(p.shape, p.dtype) for p in first.parameters()]
    return first.decoder is not None and all(
        model.decoder is not None
        and (model.pool, model.label_ids, model.lora, model.in_half, model.device)
        == (first.pool, first.label_ids, first.lora, first.in_half, first.device)
        and [(p.shape, p.dtype) for p in model.parameters()] == shapes
        for model in models[1:]
    )


def share_frozen(models: Sequence[LabelModel], trainable: str) -> bool:
    """Whether what `trainable` leaves frozen is the same memory in all `models`, as in copies made by `copy`."""
    addresses = []
    for model in models:
        moving = set(map(id, model.moving(trainable)))
        addresses.append([p.data_ptr() for p in model.lm.parameters() if id(p) not in moving])
    return all(own == addresses[0] for own in addresses[1:])


def _batch_products(lm: nn.Module) -> None:
    """Replace the linear layers and tables of `lm` whose weights are stacked by ones that work block by block."""
    for parent in list(lm.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child.weight.dim() == 3:
                setattr(parent, name, _Linear(child.weight, child.bias))
            elif isinstance(child, nn.Embedding) and child.weight.dim() == 3:
                setattr(parent, name, _Embedding(child.weight))


class _Linear(nn.Module):
    """x W_s^T + b_s of block s; weight (S, out, in), bias (S, out)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks = x.reshape(len(self.weight), -1, x.shape[-1])
        by = self.weight.transpose(1, 2)
        out = torch.bmm(blocks, by) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), blocks, by)
        return out.view(*x.shape[:-1], -1)


class _Embedding(nn.Module):
    """Row id of table s for block s; weight (S, vocabulary, d)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        size, vocabulary, width = self.weight.shape
        blocks = ids.view(size, -1) + torch.arange(size, device=ids.device).unsqueeze(1) * vocabulary
        rows = functional.embedding(blocks, self.weight.view(size * vocabulary, width))
        return rows.view(*ids.shape, width)
