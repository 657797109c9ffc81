"""The pools of a task from files as counted runs have them: carved, one item a question, free of shortcuts.

What a method trains on tells it nothing about truth by its own statistics, whether or not the method recognises an
audit: of one question there is one item, so that no answer can be voted on; and items are chosen such that what can be
counted of a text within the pool (see `shortcuts`) is independent of its label. Where that cannot be had, the report
says so, and so do records.

What no choice of items prevents: working an answer out. A method that can compute the truth from a text does not need
the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from actors.evaluator.file_splits import LEAST, Labels, Pool, carve
from actors.evaluator.secret import Secret
from actors.evaluator.shortcuts import Balanced, Shortcut, balance
from actors.evaluator.statistics.variance import Groups
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.tasks import Task

Policy = Literal["balance", "keep"]
Choice = Literal["one", "matched", "all"]
TRAINING = ("pool_a", "pool_b")
ENOUGH = 300
"""Unlabelled items that one a question must leave; below that a right and a wrong one of a question stay."""
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What was done to the unlabelled items of a task: how many were carved and stay, which ones of a question.

    `before` and `after` are the shortcuts of the pool of that choice and of what stays of it.
    """

    policy: Policy
    choice: Choice
    carved: int
    items: int
    before: Shortcut
    after: Shortcut

    @property
    def caveat(self) -> str:
        """What a reader of a record must know of the pool; empty when there is nothing."""
        if self.policy == "keep":
            return f"does not cover shortcuts: the pool was kept as published, and its statistics give {self.before}"
        if self.after.found:
            return f"does not cover shortcuts: the pool's own statistics give {self.after}, too much to balance"
        if self.choice == "all":
            return "does not cover votes within a question: too few questions to keep one item of each"
        return ""

    @property
    def open(self) -> bool:
        """Whether the pool was to be free of shortcuts and is not, so that a gain may come from those."""
        return self.policy == "balance" and bool(self.caveat)

    def line(self, name: str) -> str:
        """For people: `pools of chat: one item a question, shortcut .07 -> .01, 4,226 -> 3,100 items`."""
        which = {"one": "one item a question", "matched": "one right and one wrong item a question", "all": "all items"}
        moved = f"shortcut {self.before} -> {self.after}" if self.after != self.before else f"shortcut {self.before}"
        said = f"pools of {name}: {which[self.choice]}, {moved}, {self.carved:,} -> {self.items:,} items"
        return f"{said}; a claim {self.caveat}" if self.caveat else said

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        figures = {"before": self.before, "after": self.after}
        return {
            "policy": self.policy,
            "choice": self.choice,
            "carved": self.carved,
            "items": self.items,
            **{name: {"gain": found.gain, "se": found.se} for name, found in figures.items()},
            "caveat": self.caveat,
        }


@dataclass(frozen=True, slots=True)
class FilePools:
    """The pools by name, and what was done to those that methods train on."""

    pools: dict[str, Pool]
    report: PoolReport


def file_pools(task: Task, secret: Secret, name: str, policy: Policy = "balance") -> FilePools:
    """Carve `task` and choose what counted runs train on, with the secret. Raises `TaskError` as `carve` does.

    `keep`: all unlabelled items stay, and their shortcut is measured for the records.
    """
    pools = carve(task, secret, name)
    both = _Both.of(pools)
    rng = secret.generator("shortcuts", name)
    choice, rows = both.choose(rng) if policy == "balance" else _everything(both)
    found = balance(both.items.take(rows), both.labels[rows], rng)
    kept = rows[found.rows]
    if policy == "keep" or not both.usable(kept):
        kept, found = rows, Balanced(found.rows, found.before, found.before)
    report = PoolReport(policy, choice, len(both.every), len(kept), found.before, found.after)
    return FilePools({**pools, **both.pools(kept)}, report)


def _everything(both: _Both) -> tuple[Choice, Rows]:
    return "all", both.every


@dataclass(frozen=True, slots=True)
class _Both:
    """Pool A, then pool B: items (n) with labels (n,) and questions (n,); the first `shown` are pool A's."""

    items: ItemSet
    labels: Labels
    groups: Groups
    shown: int

    @classmethod
    def of(cls, pools: dict[str, Pool]) -> _Both:
        a, b = (pools[name] for name in TRAINING)
        groups = np.concatenate([a.groups, b.groups + int(a.groups.max()) + 1])
        return cls(a.items.concat(b.items), np.concatenate([a.labels, b.labels]), groups, len(a.items))

    @property
    def every(self) -> Rows:
        return np.arange(len(self.items))

    def choose(self, rng: np.random.Generator) -> tuple[Choice, Rows]:
        """Of every question one item; where that leaves too few, one of each class, which outvote nobody; or all.

        With one of each class in every question neither is in the majority, and the questions are equal in number.
        """
        order = rng.permutation(len(self.items))
        one = order[np.unique(self.groups[order], return_index=True)[1]]
        sides = [order[self.labels[order] == side] for side in (0, 1)]
        firsts = [own[np.unique(self.groups[own], return_index=True)[1]] for own in sides]
        asked = np.intersect1d(*(self.groups[first] for first in firsts))
        matched = np.concatenate([first[np.isin(self.groups[first], asked)] for first in firsts])
        found: list[tuple[Choice, Rows]] = [("one", np.sort(one)), ("matched", np.sort(matched)), ("all", self.every)]
        usable = [(choice, rows) for choice, rows in found if self.usable(rows)]
        if usable[0][0] != "all" and len(usable[0][1]) < ENOUGH:
            return max(usable[:-1], key=lambda one: len(one[1]))
        return usable[0]

    def usable(self, rows: Rows) -> bool:
        """Whether both pools keep items of both classes, and not too few."""
        halves = rows[rows < self.shown], rows[rows >= self.shown]
        return all(len(half) >= LEAST and len(np.unique(self.labels[half])) == 2 for half in halves)

    def pools(self, rows: Rows) -> dict[str, Pool]:
        """The two pools with these items alone."""
        halves = rows[rows < self.shown], rows[rows >= self.shown]
        return {
            name: Pool(self.items.take(half), self.labels[half], np.unique(self.groups[half], return_inverse=True)[1])
            for name, half in zip(TRAINING, halves, strict=True)
        }
