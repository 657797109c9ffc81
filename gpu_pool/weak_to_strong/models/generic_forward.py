"""Any other transformer through its own forward: right-padded ids, an attention mask, the state at one position.

Slower than `decoder` and without access to single layers, but right for every causal LM and encoder of transformers,
soft-capped logits, biases of the head and absolute positions included.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from gpu_pool.weak_to_strong.errors import ModelError


class Opaque:
    """The forward of a model that is taken as it is."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm
        self._body = lm.base_model
        self._keeps = "logits_to_keep" in inspect.signature(lm.forward).parameters

    @property
    def depth(self) -> int:
        """Number of transformer layers."""
        return int(self.lm.config.num_hidden_layers)

    def top(self, ids: torch.Tensor, last: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """The body's output (b, d) at positions `at` (b,) of texts that end at `last` (b,)."""
        state = self._body(input_ids=ids, attention_mask=_mask(ids, last)).last_hidden_state
        picked: torch.Tensor = state[torch.arange(len(at), device=ids.device), at]
        return picked

    def states(self, ids: torch.Tensor, last: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """States (b, layers + 1, d) at positions `at`, as the model itself gives them."""
        given = self._body(input_ids=ids, attention_mask=_mask(ids, last), output_hidden_states=True).hidden_states
        if given is None or len(given) != self.depth + 1:
            raise ModelError(f"{type(self.lm).__name__} does not give the states of its {self.depth} layers")
        rows = torch.arange(len(at), device=ids.device)
        return torch.stack([state[rows, at] for state in given], dim=1)

    def label_logits(self, ids: torch.Tensor, last: torch.Tensor, label_ids: list[int]) -> torch.Tensor:
        """Logits (b, 2) of the two tokens at `last`, by the model's own head."""
        rows = torch.arange(len(last), device=ids.device)
        if not self._keeps:
            logits = self.lm(input_ids=ids, attention_mask=_mask(ids, last)).logits[rows, last]
        else:
            # The head runs at the few distinct last positions of a length-sorted batch, not at every token.
            positions, which = torch.unique(last, return_inverse=True)
            logits = self.lm(input_ids=ids, attention_mask=_mask(ids, last), logits_to_keep=positions).logits[
                rows, which
            ]
        chosen: torch.Tensor = logits[:, label_ids]
        return chosen


def _mask(ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    return (torch.arange(ids.shape[1], device=ids.device) <= last.unsqueeze(1)).long()
