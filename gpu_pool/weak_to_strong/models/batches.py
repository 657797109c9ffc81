"""Batches of token ids: right padding, and length-sorted batches for inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from gpu_pool.weak_to_strong.models.memory import in_parts
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
    return moved(ids, device), moved(last, device)


def padded_blocks(
    tables: Sequence[TokenTable], part: Sequence[Index], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (S * b, longest) and last positions (S * b,): block s holds the texts of table s at `part[s]`.

    b is the longest block; shorter ones end in rows of a single padding token.
    """
    blocks = [table.padded(index) for table, index in zip(tables, part, strict=True) if len(index)]
    rows, longest = max(len(index) for index in part), max(block.shape[1] for block in blocks)
    ids = np.zeros((len(part), rows, longest), dtype=np.int64)
    last = np.zeros((len(part), rows), dtype=np.int64)
    for number, (table, index) in enumerate(zip(tables, part, strict=True)):
        if len(index):
            block = blocks.pop(0)
            ids[number, : len(index), : block.shape[1]] = block
            last[number, : len(index)] = table.lengths[index] - 1
    return moved(torch.from_numpy(ids.reshape(-1, longest)), device), moved(torch.from_numpy(last.reshape(-1)), device)


def moved(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`values` on `device`; to a GPU without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def split(index: Index, lengths: Index, budget: int) -> list[Index]:
    """Cut `index` (b,) into parts of at most `budget` padded tokens, longest texts first; a longer text stands alone.

    `lengths` (n,) are those of all texts.
    """
    return [part[0] for part in split_blocks([index], [lengths], budget)]


def split_blocks(indices: Sequence[Index], lengths: Sequence[Index], budget: int) -> list[list[Index]]:
    """Cut S batches into parts, each of at most `budget` padded tokens over all S blocks (see `padded_blocks`).

    Each batch's longest texts come first, so that those of a part are alike; the last parts of a shorter batch are
    empty.
    """
    orders = [index[np.argsort(-known[index], kind="stable")] for index, known in zip(indices, lengths, strict=True)]
    parts, start = [], 0
    while start < max(len(order) for order in orders):
        longest = max(int(k[o[start]]) for o, k in zip(orders, lengths, strict=True) if start < len(o))
        count = max(1, budget // (longest * len(orders)))
        parts.append([order[start : start + count] for order in orders])
        start += count
    return parts


def each_batch(
    tokens: Tokens, width: int, device: torch.device, work: Callable[[Index, torch.Tensor, torch.Tensor], None]
) -> None:
    """`work` on batches of `tokens`, longest first, of similar lengths: indices (b,), ids (b, t), last positions (b,).

    Batches are halved when memory runs out (see `in_parts`).
    """
    table = TokenTable.of(tokens)
    budget = DEVICE_TOKENS if device.type == "cuda" else max(64, CACHE_ELEMENTS // width)
    parts = split(np.arange(len(table)), table.lengths, budget)
    in_parts(parts, lambda index: work(index, *padded(table, index, device)))
