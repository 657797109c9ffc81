"""The pools of a task from files, carved out of its splits with the secret.

    train_label   the split of that name                 pool_a, pool_b   the rest of train_unlabel, half each
    seal          the test split, all of it              dev, board       a fifth of train_unlabel each, at most 1,300

Promises: items that speak about the same question (equal prompts apart from white space, or equal groups) are in one
pool alone, whatever links them; a prompt that is an instruction (see `questions`) links none; no item is there twice,
also not with its answers exchanged; order and ids come from the secret, so that neither tells anything; whether a task
can be carved at all does not depend on the secret. A group is never part of an item that leaves: its name may be an
answer key.

The sizes are those of research on adaptive scoring for the published chat task (6,826 unlabelled items).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from actors.evaluator.file_split_shapes import Places, Shape
from actors.evaluator.secret import Secret
from actors.evaluator.statistics.variance import Groups
from gpu_pool.weak_to_strong.errors import TaskError
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.tasks import Task
from gpu_pool.weak_to_strong.tasks.questions import instructions, question_keys

Labels = npt.NDArray[np.int8]
TIER_SHARE = 0.2
TIER_MOST = 1300
LEAST = 20
"""Items without which a pool is none."""
DRAWS = 300
"""Secret orders that are tried: of classes so rare that one order in fifty fits, one campaign in 400 needs more."""
_CARVED = ("dev", "board", "pool_a", "pool_b")
_RANKS = ("test", "train_label", "train_unlabel")
"""Who keeps a question that several splits ask: the test stays what it is, the small labelled split comes next."""
_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Pool:
    """Items (n) without groups, their labels (n,), and a number (n,) shared by items about the same question."""

    items: ItemSet = field(repr=False)
    labels: Labels = field(repr=False)
    groups: Groups = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Positions (n,) in a split that are kept, and the question (n,) of each."""

    rows: npt.NDArray[np.int64]
    questions: npt.NDArray[np.int64]


def carve(task: Task, secret: Secret, name: str) -> dict[str, Pool]:
    """The pools by name. Raises `TaskError` when labels are missing or a pool is too small or of one class only."""
    if task.train_unlabel.labels is None:
        raise TaskError(
            f"task {name}: train_unlabel has no labels: DEV and BOARD are carved out of it and the ceiling is trained "
            "on it, so give every item of it one (no researcher or method sees them)"
        )
    kept = _kept(task)
    parts = {"train_label": ("train_label", kept["train_label"]), "seal": ("test", kept["test"])}
    carved = _parts(kept["train_unlabel"], task.train_unlabel.labels, secret, name)
    parts |= {pool: ("train_unlabel", part) for pool, part in carved.items()}
    order = ("train_label", "pool_a", "pool_b", "dev", "board", "seal")
    pools = {pool: _pool(task, *parts[pool], secret, name, pool) for pool in order}
    for pool, made in pools.items():
        _check(name, pool, parts[pool][0], made, len(kept[parts[pool][0]].rows))
    return pools


def _kept(task: Task) -> dict[str, _Kept]:
    """What is left of each split when every question has one split and every item is there once."""
    questions = _questions([task.splits[split].items for split in _RANKS])
    owner: dict[int, str] = {}
    kept = {}
    for split, numbers in zip(_RANKS, questions, strict=True):
        seen: set[tuple[str, ...]] = set()
        rows = []
        for row, (number, key) in enumerate(zip(numbers.tolist(), _contents(task.splits[split].items), strict=True)):
            if owner.setdefault(number, split) == split and key not in seen:
                seen.add(key)
                rows.append(row)
        chosen = np.array(rows, dtype=np.int64)
        kept[split] = _Kept(chosen, numbers[chosen])
    return kept


def _questions(sets: Sequence[ItemSet]) -> list[npt.NDArray[np.int64]]:
    """A number (n,) per item of each set: equal when prompts or groups link two items, directly or by way of others."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    shared = instructions(sets)
    prompts = [[("prompt", key) for key in question_keys(items, shared)] for items in sets]
    for items, keys in zip(sets, prompts, strict=True):
        for key, prompt, group in zip(keys, items.prompts, items.groups or items.prompts, strict=True):
            # A group that is the prompt itself stands for none.
            parent[root(key)] = root(("group", group)) if group != prompt else root(key)
    numbers: dict[tuple[str, str], int] = {}
    found = [[numbers.setdefault(root(key), len(numbers)) for key in keys] for keys in prompts]
    return [np.array(part, dtype=np.int64) for part in found]


def _contents(items: ItemSet) -> list[tuple[str, ...]]:
    """What an item is, apart from white space and the order of a pair's answers."""
    columns = zip(items.prompts, items.firsts, items.seconds, strict=True)
    plain = [[" ".join(text.split()) for text in row] for row in columns]
    return [(p, *(sorted((a, b)) if items.kind == "pair" else (a, b))) for p, a, b in plain]


def _parts(kept: _Kept, labels: Labels, secret: Secret, name: str) -> dict[str, _Kept]:
    """train_unlabel in four, question by question in secret order.

    An order that leaves a pool too small or with one class is drawn again. Whether there is any other is decided
    without the secret, so that the same files are fit for every secret or for none.
    """
    shape = _shape(kept, labels)
    rng = secret.generator("carve", name)
    places, known = shape.laid(rng.permutation(len(shape.sizes))), shape.known_to_fit()
    if known is None:
        if shape.fits(places):  # luck of this secret alone: refused for it as for any other
            places = np.zeros_like(places)
    elif not shape.fits(places):
        places = _drawn_again(shape, rng, known)
    found = {}
    for number, pool in enumerate(_CARVED):
        chosen = np.isin(kept.questions, shape.questions[places == number])
        found[pool] = _Kept(kept.rows[chosen], kept.questions[chosen])
    return found


def _shape(kept: _Kept, labels: Labels) -> Shape:
    questions, numbers = np.unique(kept.questions, return_inverse=True)
    positives = np.bincount(numbers, weights=labels[kept.rows] > 0, minlength=len(questions)).astype(np.int64)
    tier = min(TIER_MOST, int(TIER_SHARE * len(kept.rows)))
    half = 2 * tier + (len(kept.rows) - 2 * tier) // 2
    ends = np.array([tier, 2 * tier, half])
    return Shape(questions, np.bincount(numbers, minlength=len(questions)), positives, ends, LEAST)


def _drawn_again(shape: Shape, rng: np.random.Generator, known: Places) -> Places:
    """An assignment that fits, of secret orders the first, else the known one with equal questions exchanged."""
    for _ in range(DRAWS):
        places = shape.laid(rng.permutation(len(shape.sizes)))
        if shape.fits(places):
            return places
    return shape.shuffled(known, rng)


def _pool(task: Task, split: str, part: _Kept, secret: Secret, name: str, pool: str) -> Pool:
    """The pool's items in secret order, under secret ids."""
    whole = task.splits[split]
    assert whole.labels is not None, "splits without labels are refused before"
    rng = secret.generator("carve order", name, pool)
    order = rng.permutation(len(part.rows))
    rows, items = part.rows[order], whole.items.take(part.rows[order])
    drawn = rng.bytes(len(rows) * _ID_BYTES).hex()
    ids = tuple(drawn[start : start + 2 * _ID_BYTES] for start in range(0, len(drawn), 2 * _ID_BYTES))
    _, groups = np.unique(part.questions[order], return_inverse=True)
    shown = ItemSet(items.kind, ids, items.prompts, items.firsts, items.seconds)
    return Pool(shown, whole.labels[rows].astype(np.int8), groups.astype(np.int64))


def _check(name: str, pool: str, split: str, made: Pool, left: int) -> None:
    where = f"task {name}: {pool} is carved out of {split} ({left} items without those that other splits have) and"
    if len(made.items) < LEAST:
        raise TaskError(
            f"{where} would have {len(made.items)} items, expected at least {LEAST}: give more items, and no field "
            "`group` that many of them share (a group is one question)"
        )
    if len(np.unique(made.labels)) < 2:
        raise TaskError(f"{where} would have one class only: give items of both")
