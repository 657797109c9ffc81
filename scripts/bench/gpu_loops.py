"""The loops of `bench_gpu`: the published style, the steps from it to the engine, the engine. All train adapters.

Each gives the padded tokens that it computed. The steps are loops of this file, not published code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from gpu_pool.weak_to_strong.models import LabelModel, lora
from gpu_pool.weak_to_strong.models.batches import Index, padded, split
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune
from gpu_pool.weak_to_strong.training.batches import automatic_budget, bucketed
from scripts.bench.texts import BATCH, LABELS, Ids, Size, engine_model

BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Work:
    """What a loop trains on; `micro_rows` rows at once where logits are full."""

    size: Size
    rows: list[Ids]
    labels: npt.NDArray[np.int64]
    rank: int
    micro_rows: int
    device: torch.device
    epochs: int

    def config(self, trainable: str) -> TrainConfig:
        """The published settings."""
        return TrainConfig(
            epochs=self.epochs, batch_size=BATCH, lr=self.size.lr, betas=BETAS, trainable=trainable, lora_alpha=32.0
        )


def model_of(work: Work) -> LabelModel:
    """Random weights on the device, bfloat16 on a GPU, with adapters in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = work.size.config()
    made = AutoConfig.for_model(**config)
    dtype = torch.bfloat16 if work.device.type == "cuda" else torch.float32
    with work.device:
        lm = AutoModelForCausalLM.from_config(made, dtype=dtype)  # type: ignore[no-untyped-call]
    model: LabelModel = engine_model(work.size, lm.eval())
    model.adapt(lora.LoraSettings(work.rank), seed=0)
    return model


def style(work: Work, model: LabelModel, *, buckets: bool, checkpoint: bool, full: bool) -> int:
    """Random batches, or `buckets`. With `checkpoint`, recomputation and micro-batches of a fixed number of rows padded
    to the batch's longest; else micro-batches by token budget. `full`: attention mask, logits of the whole vocabulary
    everywhere, loss on label and end token.
    """
    lm, device = model.lm, work.device
    adapters = list(lora.parameters(lm).values())
    for parameter in lm.parameters():
        parameter.requires_grad_(False)
    for parameter in adapters:
        parameter.requires_grad_(True)
    if checkpoint:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        lm.train()
    optimizer = torch.optim.AdamW(adapters, lr=work.size.lr, betas=BETAS, weight_decay=0.0, foreach=True)
    answers = [np.array([LABELS[label], 0]) for label in work.labels]
    texts = [np.concatenate(pair) for pair in zip(work.rows, answers, strict=True)] if full else work.rows
    table, computed = TokenTable.of(texts), 0
    for batch in _bucketed(table, work) if buckets else _random(len(texts), work.epochs):
        for part in _parts(batch, table, work, by_tokens=not checkpoint):
            ids, last = padded(table, part, device)
            if checkpoint:
                ids = functional.pad(ids, (0, int(table.lengths[batch].max()) - ids.shape[1]))
            with model.precision():
                loss = _full_loss(lm, ids, last) if full else _two_rows_loss(lm, ids, last, work.labels[part])
                (loss * len(part) / len(batch)).backward()  # type: ignore[no-untyped-call]
            computed += ids.numel()
        torch.nn.utils.clip_grad_norm_(adapters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    lm.gradient_checkpointing_disable()
    lm.eval()
    return computed


def engine(work: Work, model: LabelModel, *, share: int = 1) -> int:
    """The engine's own loop; with `share` 2 on the upper half of the layers and cached states of the lower."""
    upper = f":{model.layers // share}" if share > 1 else ""
    return finetune(model, work.rows, work.labels, work.config(f"lora:{work.rank}{upper}")).padded


def _bucketed(table: TokenTable, work: Work) -> Iterator[Index]:
    return bucketed(table.lengths, work.config("full"))


def _random(n: int, epochs: int) -> Iterator[Index]:
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(n)
        yield from (order[at : at + BATCH] for at in range(0, n, BATCH))


def _parts(batch: Index, table: TokenTable, work: Work, *, by_tokens: bool) -> list[Index]:
    if by_tokens:
        return split(batch, table.lengths, automatic_budget(work.size.width, work.device))
    return [batch[at : at + work.micro_rows] for at in range(0, len(batch), work.micro_rows)]


def _full_loss(lm: Any, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(ids.shape[1], device=ids.device)
    mask = positions <= last.unsqueeze(1)
    answer = mask & (positions >= last.unsqueeze(1) - 1)
    out = lm(input_ids=ids, attention_mask=mask.long(), labels=ids.masked_fill(~answer, -100), use_cache=False)
    loss: torch.Tensor = out.loss
    return loss


def _two_rows_loss(lm: Any, ids: torch.Tensor, last: torch.Tensor, labels: npt.NDArray[np.int64]) -> torch.Tensor:
    state = lm.model(input_ids=ids, use_cache=False).last_hidden_state
    top = state[torch.arange(len(last), device=ids.device), last]
    scores = top @ lm.get_output_embeddings().weight[list(LABELS)].T.to(top.dtype)
    return functional.cross_entropy(scores.float(), torch.from_numpy(labels).to(ids.device))


LOOPS: dict[str, Callable[[Work, LabelModel], int]] = {
    "published style": functools.partial(style, buckets=False, checkpoint=True, full=True),
    "+ length buckets": functools.partial(style, buckets=True, checkpoint=True, full=True),
    "+ no recomputation": functools.partial(style, buckets=True, checkpoint=False, full=True),
    "+ two rows, no mask": functools.partial(style, buckets=True, checkpoint=False, full=False),
    "engine": engine,
    "engine, upper half": functools.partial(engine, share=2),
}
