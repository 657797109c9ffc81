"""What moves in a training run, and the label logits of its micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gpu_pool.weak_to_strong.errors import ModelError, TrainingError
from gpu_pool.weak_to_strong.models.batches import Index, padded
from gpu_pool.weak_to_strong.models.label_model import LabelModel
from gpu_pool.weak_to_strong.models.lora import LoraSettings
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class StepModel:
    """The moving parameters; label logits (b, 2) of the examples at an index; tokens of a text that a step computes."""

    parameters: list[nn.Parameter]
    logits: Callable[[Index], torch.Tensor]
    lengths: Index


def prepare(model: LabelModel, tokens: TokenTable, config: TrainConfig) -> StepModel:
    """Make `model` ready to train as `config.trainable` says; raises TrainingError when it cannot be."""
    trainable = config.trainable
    try:
        if trainable.startswith("lora:"):
            model.adapt(LoraSettings(int(trainable[5:]), config.lora_alpha), config.seed)
        elif trainable != "full":
            model.untie()
        moving = model.moving(trainable)
    except ModelError as error:
        raise TrainingError(str(error)) from error
    _own(moving)
    if trainable == "full" or trainable.startswith("lora:"):
        return StepModel(moving, lambda index: model(*padded(tokens, index, model.device)), tokens.lengths)
    if trainable == "head":
        outputs = _outputs(model, tokens)
        return StepModel(
            moving, lambda index: model.read(outputs[torch.from_numpy(index)]), np.ones(len(tokens), np.int64)
        )
    depth = model.layers - int(trainable[4:])
    states = _states(model, tokens, depth)

    def logits(index: Index) -> torch.Tensor:
        batch = nn.utils.rnn.pad_sequence([states[i] for i in index], batch_first=True)
        last = torch.from_numpy(tokens.lengths[index] - 1).to(batch.device)
        with model.precision():
            return model.last_logits(batch, last, depth)

    return StepModel(moving, logits, tokens.lengths)


def _own(moving: list[nn.Parameter]) -> None:
    """Masters in float32, and trained in memory of their own: a half-precision sum would lose small steps."""
    for parameter in moving:
        if parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


@torch.no_grad()
def _outputs(model: LabelModel, tokens: TokenTable) -> torch.Tensor:
    """The model's output at the position that answers (n, d)."""
    out = torch.zeros(len(tokens), model.width, device=model.device)
    for index, ids, last in model.batches(tokens):
        with model.precision():
            out[torch.from_numpy(index)] = model.output(ids, last).float()
    return out


@torch.no_grad()
def _states(model: LabelModel, tokens: TokenTable, depth: int) -> list[torch.Tensor]:
    """States (length, d) of each text after `depth` layers."""
    out: list[torch.Tensor] = [torch.empty(0)] * len(tokens)
    for index, ids, _ in model.batches(tokens):
        with model.precision():
            state = model.run_layers(model.embed(ids), 0, depth)
        for row, i in enumerate(index):
            out[i] = state[row, : tokens.lengths[i]].clone()
    return out
