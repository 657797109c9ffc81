"""Small operations of a decoder as single autograd nodes, with hand-written gradients.

On a CUDA device `rms_norm` is torch's fused kernel; that path has not been measured.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional


def rms_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, of a module with `weight` and `variance_epsilon`.

    A stacked weight (S, d) scales S equal blocks of the first axis of x, each by its own row.
    """
    weight, eps = norm.weight, norm.variance_epsilon
    if weight.dim() == 2:
        blocks = x.reshape(len(weight), -1, x.shape[-1])
        return _normed(blocks, weight.unsqueeze(1), eps).view(x.shape)
    return _normed(x, weight, eps)


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if x.is_cuda or x.dtype != torch.float32:
        plain = weight.to(x.dtype) if weight.dim() == 1 else None
        fused: torch.Tensor = functional.rms_norm(x, x.shape[-1:], plain, eps)
        return fused if plain is not None else fused * weight.to(x.dtype)
    normed: torch.Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return normed


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        inverse = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)
        scaled = x * inverse
        ctx.save_for_backward(scaled, weight, inverse)
        out: torch.Tensor = scaled * weight
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        (given,) = gradients
        scaled, weight, inverse = ctx.saved_tensors
        to_weight = (given * scaled).sum_to_size(weight.shape) if ctx.needs_input_grad[1] else None
        given = given * weight
        along = torch.linalg.vecdot(given, scaled).div_(scaled.shape[-1]).unsqueeze(-1)
        return torch.addcmul(given, scaled, along, value=-1).mul_(inverse), to_weight, None


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: pairs (i, i + half) of the last axis of x (b, t, heads, head_dim) turned by their angles."""
    turned: torch.Tensor = _Rotate.apply(x, cos.to(x.dtype), sin.to(x.dtype))  # type: ignore[no-untyped-call]
    return turned


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradients[0], cos, sin, -1), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int) -> torch.Tensor:
    half = x.shape[-1] // 2
    sin = sin[..., :half]
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin, value=-direction)
    out[..., half:].addcmul_(x[..., :half], sin, value=direction)
    return out


def short_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention by plain products; q (b, t, heads, head_dim), k and v with heads or a divisor of heads."""
    b, t, heads, size = q.shape
    if k.shape[2] != heads:
        k, v = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (k, v))
    q, k, v = (x.transpose(1, 2).reshape(b * heads, t, size) for x in (q, k, v))
    scores = torch.baddbmm(_future(t, q.dtype), q, k.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), v).view(b, heads, t, size).transpose(1, 2)


@functools.lru_cache(maxsize=64)
def _future(t: int, dtype: torch.dtype) -> torch.Tensor:
    """(t, t) with -inf above the diagonal."""
    return torch.full((t, t), float("-inf"), dtype=dtype).triu(1)
