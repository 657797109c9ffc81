"""Weak-to-strong training as a library: items, models, one trainer, students that are data, building blocks, PGR.

A method is one file with `def train(run: MethodRun) -> Student`; `from gpu_pool.weak_to_strong import MethodRun,
Student, blocks, losses` is all it needs. Names load when first used, so that items, recipes and scores need neither
torch nor transformers in memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu_pool.weak_to_strong import blocks, losses
    from gpu_pool.weak_to_strong.items import Item, ItemSet
    from gpu_pool.weak_to_strong.models import LabelModel
    from gpu_pool.weak_to_strong.pgr import accuracy
    from gpu_pool.weak_to_strong.run import MethodRun
    from gpu_pool.weak_to_strong.student import Student
    from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune

__all__ = [
    "Item",
    "ItemSet",
    "LabelModel",
    "MethodRun",
    "Student",
    "TrainConfig",
    "accuracy",
    "blocks",
    "finetune",
    "losses",
]

_HOME = {
    "Item": "items",
    "ItemSet": "items",
    "LabelModel": "models",
    "MethodRun": "run",
    "Student": "student",
    "TrainConfig": "trainer",
    "finetune": "trainer",
    "accuracy": "pgr",
}


def __getattr__(name: str) -> Any:
    if name in ("blocks", "losses"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
