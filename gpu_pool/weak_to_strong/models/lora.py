"""Low-rank adapters on every linear layer, through peft (imported only here, when adapters are used: it is slow).

W x becomes W x + s B A x, A (r, in), B (out, r) starting at zero, s = alpha / sqrt(r) (rank-stabilised, arXiv
2312.03732). The published runs took r = 32, alpha = 32, no dropout, all seven linear layers of a block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

ADAPTER = "default"
ALPHA = 32.0
_NAME = re.compile(rf"^(?P<module>.+)\.lora_(?P<side>[AB])\.{ADAPTER}\.weight$")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Rank r and alpha of a model's adapters."""

    rank: int
    alpha: float = ALPHA


def targets(lm: Any) -> dict[str, tuple[int, int]]:
    """Names of the linear layers that get adapters, with (in, out): all but the head and an encoder's pooler."""
    head = lm.get_output_embeddings()
    found = {}
    for name, module in lm.named_modules():
        if module is head or "pooler" in name or ".cls." in f".{name}.":
            continue
        if isinstance(module, nn.Linear):
            found[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            found[name] = (int(module.weight.shape[0]), int(module.weight.shape[1]))
    return found


def attach(lm: Any, settings: LoraSettings, seed: int) -> None:
    """Put float32 adapters into `lm`, in place; A is drawn from `seed`, the global generator is kept."""
    from peft import LoraConfig, inject_adapter_in_model

    chosen = targets(lm)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        use_rslora=True,
        lora_dropout=0.0,
        target_modules=list(chosen),
        fan_in_fan_out=any(isinstance(lm.get_submodule(name), Conv1D) for name in chosen),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, lm, ADAPTER)
    for parameter in parameters(lm).values():
        parameter.data = parameter.data.float()
    lm.eval()


@torch.no_grad()
def merge(lm: Any) -> None:
    """Add the adapters of `lm` to the weights that they adapt, as float32 masters, and take them out; in place."""
    for name in {name.rpartition(".lora_")[0] for name in parameters(lm)}:
        adapted = lm.get_submodule(name)
        plain = adapted.base_layer
        plain.weight.data = plain.weight.data.float() + adapted.get_delta_weight(ADAPTER).float()
        parent, _, child = name.rpartition(".")
        setattr(lm.get_submodule(parent), child, plain)


def parameters(lm: Any) -> dict[str, nn.Parameter]:
    """The adapters by name: `<module>.lora_A` (r, in) and `<module>.lora_B` (out, r)."""
    found = {}
    for name, parameter in lm.named_parameters():
        match = _NAME.match(name)
        if match is not None:
            found[f"{match['module']}.lora_{match['side']}"] = parameter
    return found
