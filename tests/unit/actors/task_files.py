"""Tasks in files and tiny models to go with them, made of a generated world's items."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_pool.weak_to_strong.domains import Domain, write_pretrain_inputs
from gpu_pool.weak_to_strong.items import Item
from gpu_pool.weak_to_strong.pretrain import pretrain_model

SIZES = {"train_label": 60, "train_unlabel": 200, "test": 80}


def row(item: Item, label: int, **more: Any) -> dict[str, Any]:
    """An item in the published format."""
    if item.kind == "binary":
        return {"question": item.prompt, "choice": item.first, "label": bool(label), **more}
    return {"prompt": item.prompt, "first": item.first, "second": item.second, "label": "AB"[label], **more}


def write_rows(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    """A task folder, one file a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in rows.items():
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in some), encoding="utf-8")
        path.chmod(0o600)
    return folder


def rows_of(domain: Domain, sizes: dict[str, int] = SIZES, splits: Iterable[str] = SIZES) -> dict[str, Any]:
    """Rows of a generated domain by split; those of one split follow one another as they were drawn."""
    found = {}
    for seed, split in enumerate(splits):
        items, labels = domain.sample(sizes[split], seed + 100)
        found[split] = [row(item, int(label)) for item, label in zip(items, labels, strict=True)]
    return found


def made_up(count: int, name: str, kind: str = "pair", **more: Any) -> list[dict[str, Any]]:
    """Rows whose questions are their own, with both labels."""
    items = [Item(f"{name}{i}", "pair", f"{name} question {i}", f"yes {i}", f"no {i}") for i in range(count)]
    if kind == "binary":
        items = [Item(i.id, "binary", i.prompt, i.first) for i in items]
    labels = np.random.default_rng(len(name)).integers(0, 2, count)
    return [row(item, int(label), **more) for item, label in zip(items, labels, strict=True)]


def model_folder(domain: Domain, which: Any, target: Path) -> Path:
    """A model of the domain's world, pretrained as its specification says."""
    torch.set_num_threads(1)
    inputs = target.with_name(f".{target.name}-inputs")
    pretrain_model(inputs, target, write_pretrain_inputs(domain, which, inputs))
    shutil.rmtree(inputs)
    return target
