"""Batches of token ids: right padding, and length-sorted batches for inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from gpu_pool.weak_to_strong.tokens import TokenTable

Tokens = Sequence[npt.NDArray[np.integer]]
Index = npt.NDArray[np.int64]
CACHE_ELEMENTS = 1 << 16
"""Elements of one state of a CPU batch, tokens x width, that keep a layer's work in a core's cache (measured)."""
DEVICE_TOKENS = 32_768
"""Tokens of an inference batch on a GPU (not measured)."""


def pad(tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad with 0: ids (b, longest) int64 and the index of each last token (b,)."""
    table = TokenTable.of(tokens)
    everything = np.arange(len(table))
    return torch.from_numpy(table.padded(everything)), torch.from_numpy(table.lengths - 1)


def padded(table: TokenTable, index: Index, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (b, longest) and last positions (b,) of the texts at `index`, on `device`."""
    ids, last = torch.from_numpy(table.padded(index)), torch.from_numpy(table.lengths[index] - 1)
    if device.type == "cuda":
        return ids.pin_memory().to(device, non_blocking=True), last.pin_memory().to(device, non_blocking=True)
    return ids.to(device), last.to(device)


def split(index: Index, lengths: npt.NDArray[np.int64], budget: int) -> list[Index]:
    """Cut `index` (b,) into parts of at most `budget` padded tokens, longest texts first; a longer text stands alone.

    `lengths` (n,) are those of all texts.
    """
    order = index[np.argsort(-lengths[index], kind="stable")]
    parts, start = [], 0
    while start < len(order):
        count = max(1, budget // int(lengths[order[start]]))
        parts.append(order[start : start + count])
        start += count
    return parts


def inference_batches(
    tokens: Tokens, width: int, device: torch.device
) -> Iterator[tuple[Index, torch.Tensor, torch.Tensor]]:
    """Batches over `tokens`, longest first, of similar lengths: indices, ids and last positions."""
    table = TokenTable.of(tokens)
    budget = DEVICE_TOKENS if device.type == "cuda" else max(64, CACHE_ELEMENTS // width)
    for index in split(np.arange(len(table)), table.lengths, budget):
        ids, last = padded(table, index, device)
        yield index, ids, last
