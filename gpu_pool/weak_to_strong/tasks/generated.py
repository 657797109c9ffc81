"""Tasks of the generated worlds: splits drawn by a seed, of the sizes that the world's specification names."""

from __future__ import annotations

import hashlib
from typing import get_args

import numpy as np

from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, Domain, Size, get_domain
from gpu_pool.weak_to_strong.errors import TaskError
from gpu_pool.weak_to_strong.items import Item, ItemSet
from gpu_pool.weak_to_strong.tasks.schema import Labels, Split, Task

PREFIX = "generated:"
_SIZES: tuple[Size, ...] = get_args(Size)
_ROUNDS = 20


def parse_domain(spec: str) -> Domain:
    """The world that `generated:NAME[:SIZE[:WORLD_SEED]]` names; size quick and world 0 by default."""
    name, *rest = spec.removeprefix(PREFIX).split(":")
    size, world = (*rest, *("quick", "0")[len(rest) :])[:2] if len(rest) <= 2 else ("", "")
    if name not in DOMAIN_NAMES or size not in _SIZES or not world.isdecimal():
        raise TaskError(
            f"task {spec!r}: expected generated:NAME[:SIZE[:WORLD_SEED]], NAME one of {', '.join(DOMAIN_NAMES)}, "
            f"SIZE one of {', '.join(_SIZES)}, WORLD_SEED a number"
        )
    return get_domain(name, "quick" if size == "quick" else "standard", int(world))


def generated_task(domain: Domain, seed: int = 0) -> Task:
    """Splits drawn by `seed`, no prompt in two of them and no item twice; the domain's own text format.

    Raises TaskError when the world is too small for its sizes.
    """
    spec, used = domain.spec, set[str]()
    sizes = {"test": spec.test, "train_label": spec.labelled, "train_unlabel": spec.unlabelled}
    test, label, unlabel = (_draw(domain, name, size, seed, used) for name, size in sizes.items())
    return Task(f"{domain.name}-{spec.size}", domain.kind, label, unlabel, test, fmt=domain.prompt_format)


def _draw(domain: Domain, name: str, size: int, seed: int, used: set[str]) -> Split:
    """`size` new items; `used` are the prompts of other splits and gains this one's."""
    kept: list[Item] = []
    labels: list[Labels] = []
    own, seen = set[str](), set[tuple[str, ...]]()
    for number in range(_ROUNDS):
        drawn, truth = domain.sample(size - len(kept), _seed(seed, name, number))
        fresh = [i for i, item in enumerate(drawn) if _is_new(item, used, seen)]
        kept += [drawn[i] for i in fresh]
        labels.append(truth[fresh])
        own.update(drawn.prompts[i] for i in fresh)
        if len(kept) == size:
            used |= own
            return Split(ItemSet.of(kept), np.concatenate(labels))
    raise TaskError(f"{domain.name}: only {len(kept)} of {size} different items for {name}: the world is too small")


def _is_new(item: Item, used: set[str], seen: set[tuple[str, ...]]) -> bool:
    """Whether neither the prompt is another split's nor the item, in either order of answers, an earlier one's."""
    key = (item.prompt, *sorted((item.first, item.second)))
    if item.prompt in used or key in seen:
        return False
    seen.add(key)
    return True


def _seed(seed: int, split: str, number: int) -> bytes:
    """Bytes, so that no split shares a stream with another, or with whoever draws from a world by an integer."""
    return hashlib.sha256(f"task {seed} {split} {number}".encode()).digest()
