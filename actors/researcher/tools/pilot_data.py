"""The two parts of the public pool that a researcher's pilots use: one to train on, one to look at.

The split depends on the campaign's seed, the researcher and the number of items only, so that pilots of one
researcher can be compared. Files are written once, into the researcher's private directory; nothing in them is a
label: the pool is public and its labels are with the evaluator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cluster.errors import Reason, RefusedError
from cluster.trees import remove_tree

TENSORS = ("weak.safetensors", "features.safetensors", "prior.safetensors")
ITEMS = "items.arrow"
MAX_HELD = 500
MIN_ITEMS = 16
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PilotData:
    """Directories `train` and `held`, each with items and their tensors in the same order, and their sizes."""

    train: Path
    held: Path
    n_train: int
    n_held: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"train": str(self.train), "held": str(self.held), "n_train": self.n_train, "n_held": self.n_held}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PilotData:
        """The inverse of `to_dict`."""
        return cls(Path(data["train"]), Path(data["held"]), data["n_train"], data["n_held"])


def split(n: int, items: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Disjoint indices of `items` to train on (at most four fifths of n) and up to 500 to look at.

    Raises `RefusedError` when the pool or the wish is too small.
    """
    wanted = min(items, n * 4 // 5)
    if wanted < MIN_ITEMS or n - wanted < 1:
        raise RefusedError(Reason.BAD_ARGUMENTS, f"a pilot needs at least {MIN_ITEMS} items, and the pool has {n}")
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[:wanted]), np.sort(order[wanted : wanted + MAX_HELD])


def prepare(public: Path, private: Path, items: int, seed: int) -> PilotData:
    """The split's files, made when they are not there yet. Raises `RefusedError` (`no_task`) without a public pool."""
    from gpu_pool.weak_to_strong.items import ItemSet

    try:
        pool = ItemSet.load(public / ITEMS)
        train, held = split(len(pool), items, seed)
        target = private / f"pilot-{len(train)}-{seed}"
        data = PilotData(target / "train", target / "held", len(train), len(held))
        if target.is_dir():
            return data
        building = private / f".{target.name}"
        remove_tree(building)
        for name, chosen in (("train", train), ("held", held)):
            part = building / name
            part.mkdir(parents=True)
            pool.take(chosen).save(part / ITEMS)
            for file in TENSORS:
                _subset(public / file, part / file, chosen, len(pool))
        building.rename(target)
    except (OSError, SafetensorError) as error:
        raise RefusedError(Reason.NO_TASK, f"the public files of the task cannot be used: {error}") from error
    return data


def vector(path: Path, name: str) -> FloatArray:
    """P(label 1) per item, (n,): tensor `name` or its second column. Raises SafetensorError, OSError, KeyError."""
    values = np.asarray(load_file(path)[name], dtype=np.float32)
    return values[:, 1] if values.ndim == 2 else values


def _subset(source: Path, target: Path, chosen: npt.NDArray[np.int64], n: int) -> None:
    tensors = load_file(source)
    for name, tensor in tensors.items():
        if tensor.shape[:1] != (n,):
            raise RefusedError(Reason.NO_TASK, f"{source.name}: {name} has shape {tensor.shape}, expected ({n}, ...)")
    save_file({name: np.ascontiguousarray(tensor[chosen]) for name, tensor in tensors.items()}, target)
