"""A weak-to-strong task: items in three splits with their labels, checked once, then trusted everywhere.

    train_label    truth for the weak teacher
    train_unlabel  what students train on with the teacher's labels; its truth, when known, is for the ceiling alone
    test           what weak, strong and student models are scored on

Promises: the splits hold items of one kind with ids of their own; no question occurs in two splits; labels are 0 or 1,
both occur, and only the splits that may go without have none. A task is never changed, and is the evaluator's: labels
stand here, so this package never enters a sandbox. A method gets `train_unlabel.items`, which cannot hold a label.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from cluster.trees import remove_tree
from gpu_pool.weak_to_strong.errors import ItemError, TaskError
from gpu_pool.weak_to_strong.formats import PromptFormat
from gpu_pool.weak_to_strong.items import KINDS, ItemSet, Kind
from gpu_pool.weak_to_strong.tasks.questions import instructions, question_keys

Labels = npt.NDArray[np.int8]
SPLITS = ("train_label", "train_unlabel", "test")
_LABELLED = ("train_label", "test")
_KEEPING = ("test", "train_label", "train_unlabel")
"""Who keeps a prompt that occurs in several splits: the test stays what it is, the small labelled split comes next."""
_ABOUT, _LABELS, _FORMAT = "task.json", "labels.safetensors", "prompt.json"


@dataclass(frozen=True, eq=False)
class Split:
    """Items (n) and their labels (n,), 0 or 1; None where the truth is not known."""

    items: ItemSet = field(repr=False)
    labels: Labels | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        if self.labels is None:
            return
        raw = np.asarray(self.labels)
        if raw.shape != (len(self.items),):
            raise TaskError(f"labels have shape {raw.shape}, expected ({len(self.items)},): one for each item")
        wrong = np.flatnonzero(~np.isin(raw, (0, 1)))
        if len(wrong):
            at = int(wrong[0])
            raise TaskError(f"the label of item {self.items.ids[at]!r} is {raw[at]}, expected 0 or 1")
        own = raw.astype(np.int8)
        own.setflags(write=False)
        object.__setattr__(self, "labels", own)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: npt.ArrayLike) -> Split:
        """The items at `indices` (m,), or where a mask (n,) is true, with their labels."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return Split(self.items.take(chosen), None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True, eq=False)
class Task:
    """Three splits of one kind; `fmt` is the text format when the task has one of its own.

    Items whose question (see `questions`) is in a split of higher rank (test, then train_label) are dropped at
    construction; `notes` says how many. Raises TaskError, naming the split and the remedy, when a promise of this
    module cannot be kept.
    """

    name: str
    kind: Kind
    train_label: Split
    train_unlabel: Split
    test: Split
    fmt: PromptFormat | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TaskError(f"task {self.name}: kind is {self.kind!r}, expected one of {KINDS}")
        for name, split in self.splits.items():
            if split.items.kind != self.kind:
                raise TaskError(f"{self._of(name)} holds {split.items.kind} items, the task is {self.kind}: mend one")
        self._keep_prompts_apart()
        for name, split in self.splits.items():
            self._check(name, split)
        self._check_ids()

    @property
    def splits(self) -> Mapping[str, Split]:
        """The three splits by name."""
        return {name: getattr(self, name) for name in SPLITS}

    @cached_property
    def content_hash(self) -> str:
        """sha256, in hexadecimal, over every column, every label and the text format; name and notes do not count."""
        digest = hashlib.sha256(repr((self.kind, self.fmt)).encode())
        for name, split in self.splits.items():
            digest.update(f"\n{name} {split.items.content_hash()} {split.labels is not None}\n".encode())
            digest.update(b"" if split.labels is None else split.labels.tobytes())
        return digest.hexdigest()

    def with_unlabelled(self, count: int, seed: int = 0) -> Task:
        """The task with `count` of its unlabelled items, drawn by `seed`, in their order; for pilots and scaling."""
        if not 0 < count <= len(self.train_unlabel):
            raise TaskError(f"{self._of('train_unlabel')} has {len(self.train_unlabel)} items, {count} were asked for")
        order = np.random.default_rng(seed).permutation(len(self.train_unlabel))
        return replace(self, train_unlabel=self.train_unlabel.take(np.sort(order[:count])))

    def save(self, folder: Path) -> None:
        """Write an Arrow file of items per split, and the labels apart in a file for its owner only (mode 0600).

        Raises TaskError when the folder exists and holds something.
        """
        if folder.exists() and any(folder.iterdir()):
            raise TaskError(f"{folder} is not empty: choose another folder, or remove it first")
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, split in self.splits.items():
                split.items.save(building / f"{name}.arrow")
            labels = {name: split.labels for name, split in self.splits.items() if split.labels is not None}
            with os.fdopen(os.open(building / _LABELS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(save(labels))
            if self.fmt is not None:
                self.fmt.save(building / _FORMAT)
            about = {"name": self.name, "kind": self.kind, "notes": self.notes, "content_hash": self.content_hash}
            (building / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
            building.chmod(0o755)
            building.rename(folder)
        finally:
            remove_tree(building)

    @classmethod
    def load(cls, folder: Path) -> Task:
        """Read what `save` wrote; TaskError when a file is missing, malformed or not the one that was written."""
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            title, kind, notes, written = (about[key] for key in ("name", "kind", "notes", "content_hash"))
            labels = load_file(folder / _LABELS)
            label, unlabel, test = (Split(ItemSet.load(folder / f"{name}.arrow"), labels.get(name)) for name in SPLITS)
            fmt = PromptFormat.load(folder / _FORMAT) if (folder / _FORMAT).is_file() else None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, ItemError) as error:
            raise TaskError(f"{folder}: not a saved task, make it again from its source: {error}") from error
        task = cls(str(title), kind, label, unlabel, test, fmt, tuple(map(str, notes)))
        if task.content_hash != written:
            raise TaskError(f"{folder}: items or labels changed since it was saved: make it again from its source")
        return task

    def _of(self, split: str) -> str:
        return f"task {self.name}: {split}"

    def _keep_prompts_apart(self) -> None:
        """Drop items whose question, apart from white space, stands in a split of higher rank."""
        seen: dict[str, str] = {}
        shared = instructions([split.items for split in self.splits.values()])
        for name in _KEEPING:
            split: Split = getattr(self, name)
            owners = [seen.setdefault(key, name) for key in question_keys(split.items, shared)]
            fresh = np.array([owner == name for owner in owners], dtype=bool)
            if fresh.all():
                continue
            lost = ", ".join(f"{owners.count(o)} with prompts of {o}" for o in _KEEPING if o != name and o in owners)
            object.__setattr__(self, name, split.take(fresh))
            object.__setattr__(self, "notes", (*self.notes, f"{name}: {lost} dropped, {int(fresh.sum())} left"))

    def _check(self, name: str, split: Split) -> None:
        if not len(split):
            raise TaskError(f"{self._of(name)} is empty: {'; '.join(self.notes) or 'give it items'}")
        if split.labels is None:
            if name in _LABELLED:
                needs = "the teacher learns from them" if name == "train_label" else "models are scored with them"
                raise TaskError(f"{self._of(name)} has no labels: {needs}, so give every item of it one")
            return
        if len(np.unique(split.labels)) == 1:
            raise TaskError(
                f"{self._of(name)} has one class only: all {len(split)} labels are {int(split.labels[0])}; "
                "it needs items of both (swap some pairs, or add wrong answers)"
            )

    def _check_ids(self) -> None:
        owner: dict[str, str] = {}
        for name, split in self.splits.items():
            for id_ in split.items.ids:
                if owner.setdefault(id_, name) != name:
                    raise TaskError(f"{self._of(name)}: id {id_!r} occurs in {owner[id_]} too: ids must be unique")
