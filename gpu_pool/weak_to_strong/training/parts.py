"""What moves in a training run, of one model or of several stacked ones, and the label logits of its micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from gpu_pool.weak_to_strong.errors import ModelError, TrainingError
from gpu_pool.weak_to_strong.models.batches import Index, moved, padded, padded_blocks
from gpu_pool.weak_to_strong.models.label_model import LabelModel
from gpu_pool.weak_to_strong.models.lora import LoraSettings
from gpu_pool.weak_to_strong.models.stack import Stack
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.training.config import TrainConfig

Part = Sequence[Index]
"""Examples of each member."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepModel:
    """What a loop trains: S members.

    The moving parameters, (S, ...) if `stacked`; label logits (b_s, 2) of each member's examples; for each member the
    tokens of a text that a step computes; what to do at the end.
    """

    parameters: list[nn.Parameter]
    logits: Callable[[Part], list[torch.Tensor]]
    lengths: list[Index]
    stacked: bool = False
    finish: Callable[[], None] = lambda: None


def prepare(models: Sequence[LabelModel], tables: Sequence[TokenTable], configs: Sequence[TrainConfig]) -> StepModel:
    """Make `models` ready to train as the configurations say; raises TrainingError when they cannot be."""
    for model, config in zip(models, configs, strict=True):
        ready(model, config)
    return _single(models[0], tables[0], configs[0]) if len(models) == 1 else _stacked(models, tables, configs)


def ready(model: LabelModel, config: TrainConfig) -> list[nn.Parameter]:
    """Make `model` ready to train as `config` says, and give the parameters that move; `release` ends it.

    They alone ask for gradients, and are float32 in memory of their own. Raises TrainingError when it cannot be.
    """
    trainable = config.trainable
    try:
        if trainable.startswith("lora:"):
            model.adapt(LoraSettings(int(trainable.split(":")[1]), config.lora_alpha), config.seed)
        elif trainable != "full":
            model.untie()
        moving = model.moving(trainable)
    except ModelError as error:
        raise TrainingError(str(error)) from error
    # Masters in float32, and trained in memory of their own: a half-precision sum would lose small steps.
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in moving:
        parameter.requires_grad_(True)
        if parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return moving


def release(models: Sequence[LabelModel]) -> None:
    """Drop the gradients of `models`; all of their parameters may ask for them again."""
    for model in models:
        for parameter in model.parameters():
            parameter.grad = None
            parameter.requires_grad_(True)


def _single(model: LabelModel, tokens: TokenTable, config: TrainConfig) -> StepModel:
    trainable, moving = config.trainable, model.moving(config.trainable)
    if _whole(trainable):
        return StepModel(moving, lambda part: [model(*padded(tokens, part[0], model.device))], [tokens.lengths])
    if trainable == "head":
        outputs = _outputs(model, tokens)
        return StepModel(moving, lambda part: [model.read(outputs[torch.from_numpy(part[0])])], [_ones(tokens)])
    depth = model.layers - int(trainable.rpartition(":")[2])
    states = _states(model, tokens, depth)

    def logits(part: Part) -> list[torch.Tensor]:
        batch, last = _padded_states([states], [tokens], part)
        with model.precision():
            return [model.last_logits(batch, last, depth)]

    return StepModel(moving, logits, [tokens.lengths])


def _stacked(models: Sequence[LabelModel], tables: Sequence[TokenTable], configs: Sequence[TrainConfig]) -> StepModel:
    trainable, first = configs[0].trainable, models[0]
    stack = Stack(models, trainable)

    def own(blocks: torch.Tensor, part: Part) -> list[torch.Tensor]:
        return [block[: len(index)] for block, index in zip(blocks, part, strict=True)]

    lengths = [table.lengths for table in tables]
    if _whole(trainable):

        def logits(part: Part) -> list[torch.Tensor]:
            return own(stack.logits(*padded_blocks(tables, part, first.device)), part)

    elif trainable == "head":
        outputs, lengths = _once(tables, lambda table: _outputs(first, table)), [_ones(table) for table in tables]

        def logits(part: Part) -> list[torch.Tensor]:
            rows = [known[torch.from_numpy(index)] for known, index in zip(outputs, part, strict=True)]
            return own(stack.read(nn.utils.rnn.pad_sequence(rows, batch_first=True).flatten(0, 1)), part)

    else:
        depth = first.layers - int(trainable.rpartition(":")[2])
        states = _once(tables, lambda table: _states(first, table, depth))

        def logits(part: Part) -> list[torch.Tensor]:
            return own(stack.last_logits(*_padded_states(states, tables, part), depth), part)

    return StepModel(stack.parameters, logits, lengths, stacked=True, finish=stack.unstack)


def _whole(trainable: str) -> bool:
    """Whether a step runs all layers."""
    return trainable == "full" or (trainable.startswith("lora:") and trainable.count(":") == 1)


def _ones(tokens: TokenTable) -> Index:
    return np.ones(len(tokens), np.int64)


def _once(tables: Sequence[TokenTable], make: Callable[[TokenTable], T]) -> list[T]:
    """`make` of each table; the members' frozen parts are the same, so that of one table is made once."""
    known = {id(table): table for table in tables}
    made = {key: make(table) for key, table in known.items()}
    return [made[id(table)] for table in tables]


def _padded_states(
    states: Sequence[list[torch.Tensor]], tables: Sequence[TokenTable], part: Part
) -> tuple[torch.Tensor, torch.Tensor]:
    """States (S * b, longest, d) and last positions (S * b,), in blocks as in `padded_blocks`."""
    count = max(len(index) for index in part)
    nothing = states[0][0][:1]
    rows, last = [], np.zeros((len(part), count), dtype=np.int64)
    for number, (known, table, index) in enumerate(zip(states, tables, part, strict=True)):
        rows += [known[i] for i in index] + [nothing] * (count - len(index))
        last[number, : len(index)] = table.lengths[index] - 1
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return batch, moved(torch.from_numpy(last.reshape(-1)), batch.device)


@torch.no_grad()
def _outputs(model: LabelModel, tokens: TokenTable) -> torch.Tensor:
    """The model's output at the position that answers (n, d)."""
    out = torch.zeros(len(tokens), model.width, device=model.device)

    def batch(index: Index, ids: torch.Tensor, last: torch.Tensor) -> None:
        out[torch.from_numpy(index)] = model.output(ids, last).float()

    model.each_batch(tokens, batch)
    return out


@torch.no_grad()
def _states(model: LabelModel, tokens: TokenTable, depth: int) -> list[torch.Tensor]:
    """States (length, d) of each text after `depth` layers."""
    out: list[torch.Tensor] = [torch.empty(0)] * len(tokens)

    def batch(index: Index, ids: torch.Tensor, _: torch.Tensor) -> None:
        state = model.run_layers(model.embed(ids), 0, depth)
        for row, i in enumerate(index):
            out[i] = state[row, : tokens.lengths[i]].clone()

    model.each_batch(tokens, batch)
    return out
