"""The two published models (automated-w2s-research, 2026); their hyper-parameters are the defaults of `Training`.

Both roles were trained alike: LoRA r = 32, alpha 32, rank-stabilised, no dropout, on all seven linear layers; AdamW
with betas .9/.95, learning rate 1e-4 linear after 10 % warm-up, no weight decay, batches of 32, 5 epochs, contexts up
to 8,192 tokens. The published run kept its optimiser's moments in 8 bits and put a loss on the end token too; here
moments are float32 and the loss is on the label alone.

    preset = PRESETS["Qwen/Qwen3-4B-Base"]
    model = preset.load("pair", device="cuda")
    finetune(model, model.tokenize(items), targets, TrainConfig())
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_pool.weak_to_strong.formats import PUBLISHED, PUBLISHED_LENGTH, PUBLISHED_MODELS, PromptFormat
from gpu_pool.weak_to_strong.items import Kind
from gpu_pool.weak_to_strong.models import LabelModel


@dataclass(frozen=True, slots=True)
class Preset:
    """A published model: its hub id, and whether it is asked through its chat template. `Training()` trained it."""

    name: str
    chat: bool
    max_length: int = PUBLISHED_LENGTH

    def format(self, kind: Kind) -> PromptFormat:
        """The published texts for this model."""
        return replace(PUBLISHED[kind], chat=self.chat)

    def load(self, kind: Kind, folder: Path | str | None = None, **options: Any) -> LabelModel:
        """The model from `folder`, else from the hub, with its published texts; `options` as in LabelModel.load."""
        settings: dict[str, Any] = {"fmt": self.format(kind), "max_length": self.max_length} | options
        return LabelModel.load(folder or self.name, kind, **settings)


PRESETS = {name: Preset(name, chat) for name, chat in PUBLISHED_MODELS.items()}
"""By hub id: the weak teacher's model first, then the strong student's."""
