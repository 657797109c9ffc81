"""The fast forward of decoders that are laid out like Llama, Mistral, Qwen2 and Qwen3.

It calls the model's own linear modules (adapters put into them work) and does the rest itself:

- Right padding needs no mask under causal attention, because the last real token never sees what is behind it.
- The top layer runs its queries, output projection and feed-forward part at the last token only. Exact, because nothing
  reads its other positions, and it saves a quarter of a 3-layer model's arithmetic (1/36 of Qwen3-4B's).
- Norms and rotations are single autograd nodes with hand-written gradients, which on a CPU take two thirds of the time
  of the usual chain of small operations.

Its states equal those of the model's own forward within rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from gpu_pool.weak_to_strong.models.kernels import rms_norm, rotate, short_attention

FAST_TYPES = ("llama", "mistral", "qwen2", "qwen3")
STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # their angles don't depend on the text's length
SHORT = 32  # up to that many tokens, plain matrix products beat the fused attention kernel on a CPU (measured)
ROTARY_STEP = 256


def is_fast(lm: Any) -> bool:
    """Whether `lm` has the layout of this module: full causal attention everywhere, static rotary positions."""
    config = lm.config
    if config.model_type not in FAST_TYPES or not hasattr(lm, "model"):
        return False
    full = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    sliding = config.model_type == "mistral" and config.sliding_window is not None
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return full and not sliding and rope in STATIC_ROPE


class Decoder:
    """Layer-wise access to such a model; states are (b, t, d)."""

    def __init__(self, lm: Any) -> None:
        self.body = lm.model
        self.depth = len(lm.model.layers)
        self._head_dim = int(lm.model.layers[0].self_attn.head_dim)
        self._rotary: tuple[torch.Tensor, torch.Tensor] | None = None

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings (b, t, d): the state below the first layer."""
        embedded: torch.Tensor = self.body.embed_tokens(ids)
        return embedded

    def run(self, state: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Layers `start` to `stop` at every position, without the final norm."""
        for layer in self.body.layers[start:stop]:
            state = self._layer(layer, state, None)
        return state

    def top(self, state: torch.Tensor, start: int, last: torch.Tensor) -> torch.Tensor:
        """The model's output (b, d) at position `last` (b,): layers from `start` on, then the final norm."""
        if start < self.depth:
            state = self.run(state, start, self.depth - 1)
            at_last = self._layer(self.body.layers[-1], state, last)[:, 0]
        else:
            at_last = state[torch.arange(len(last), device=state.device), last]
        return self.normed(at_last)

    def normed(self, state: torch.Tensor) -> torch.Tensor:
        """The final norm of states (b, d)."""
        return rms_norm(state, self.body.norm)

    def _layer(self, layer: Any, state: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
        """One layer; with `last`, its output at that position only (b, 1, d)."""
        attention = layer.self_attn
        length = state.shape[1]
        cos, sin = self._angles(state)
        read = rms_norm(state, layer.input_layernorm)
        keys = self._heads(attention.k_proj(read), getattr(attention, "k_norm", None))
        values = self._heads(attention.v_proj(read), None)
        keys = rotate(keys, cos[:length], sin[:length])
        if last is None:
            queries = self._heads(attention.q_proj(read), getattr(attention, "q_norm", None))
            mixed = _attend(rotate(queries, cos[:length], sin[:length]), keys, values, attention.scaling)
        else:
            rows = torch.arange(len(last), device=state.device)
            state = state[rows, last].unsqueeze(1)
            queries = self._heads(attention.q_proj(read[rows, last].unsqueeze(1)), getattr(attention, "q_norm", None))
            queries = rotate(queries, cos[last].unsqueeze(1), sin[last].unsqueeze(1))
            mixed = _attend_last(queries, keys, values, attention.scaling, last)
        state = state + attention.o_proj(mixed)
        out: torch.Tensor = state + layer.mlp(rms_norm(state, layer.post_attention_layernorm))
        return out

    def _heads(self, projected: torch.Tensor, norm: Any) -> torch.Tensor:
        heads = projected.view(*projected.shape[:2], -1, self._head_dim)
        return heads if norm is None else rms_norm(heads, norm)

    def _angles(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (positions, 1, head_dim), computed once for as many positions as were ever needed."""
        kept = self._rotary
        if kept is None or len(kept[0]) < state.shape[1] or kept[0].device != state.device:
            count = -(-state.shape[1] // ROTARY_STEP) * ROTARY_STEP
            with torch.no_grad():
                positions = torch.arange(count, device=state.device).unsqueeze(0)
                cos, sin = self.body.rotary_emb(state.float(), positions)
            kept = self._rotary = (cos[0].unsqueeze(1), sin[0].unsqueeze(1))
        return kept


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention of (b, t, heads, head_dim); (b, t, heads * head_dim)."""
    if q.shape[1] <= SHORT and not q.is_cuda:
        mixed = short_attention(q, k, v, scale)
    else:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        grouped = q.shape[1] != k.shape[1]
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        mixed = mixed.transpose(1, 2)
    return mixed.reshape(*mixed.shape[:2], -1)


def _attend_last(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, last: torch.Tensor) -> torch.Tensor:
    """Attention of one query a text (b, 1, heads, head_dim) to the keys up to `last`; (b, 1, heads * head_dim)."""
    b, t, groups, size = k.shape
    grouped = q.view(b, groups, -1, size)
    scores = torch.einsum("bghd,btgd->bght", grouped, k) * scale
    beyond = torch.arange(t, device=k.device) > last.unsqueeze(1)
    weights = scores.masked_fill(beyond[:, None, None], float("-inf")).softmax(-1, dtype=torch.float32).to(v.dtype)
    return torch.einsum("bght,btgd->bghd", weights, v).reshape(b, 1, -1)
