"""The splits of one domain: pools drawn from the secret or carved with it, their labels in memory alone.

Promises: the same secret and world always give the same pools; no prompt occurs in two splits; no item occurs twice;
the text of a `Splits` or a `Split` shows no label. Labels leave only through `Split.labels`, which the evaluator's own
modules read to score, and to write the short-lived files that teachers and ceilings train on.

    train_label   truth of the weak teachers
    pool_a        unlabelled, shown to researchers
    pool_b        unlabelled, never shown; counted runs train on both
    dev, board, seal   scored items of the three tiers; only the predict step ever reads them
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from actors.evaluator.file_domain import AnyDomain, FileDomain
from actors.evaluator.pools import Policy, PoolReport, file_pools
from actors.evaluator.secret import Secret
from actors.evaluator.statistics.variance import Groups
from cluster.errors import AarError
from cluster.wire import pack
from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.items import ItemSet

Labels = npt.NDArray[np.int8]
UNLABELLED = ("pool_a", "pool_b")
SPLITS = ("train_label", "pool_a", "pool_b", "dev", "board", "seal")
TASK_VERSION = "weak-to-strong-3"
CANARY_SHARE = 1 / 13
"""Share of DEV's items whose labels are falsified in its answers, so that whoever learns labels from them shows it."""
_ROUNDS = 20


class TruthError(AarError):
    """A domain cannot give enough distinct items."""


@dataclass(frozen=True, slots=True)
class Split:
    """Items (n), their labels (n,) 0 or 1, and a group number (n,) shared by items with the same prompt."""

    name: str
    items: ItemSet = field(repr=False)
    labels: Labels = field(repr=False)
    groups: Groups = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)


class Splits:
    """All pools of one domain."""

    def __init__(
        self, secret: Secret, domain: AnyDomain, *, alone: bool = False, shortcuts: Policy = "balance"
    ) -> None:
        """Draw or carve every pool (well under a second for a generated one).

        `alone`: no two unlabelled solutions of a generated domain are of one problem, so that none can be voted on.
        `shortcuts`: whether unlabelled items of files are chosen so that their statistics tell nothing. Raises
        `TruthError` when a world is too small for its sizes, `TaskError` when files are.
        """
        self.domain = domain
        self._secret = secret
        self._alone = alone and domain.kind == "binary"
        self.report: PoolReport | None = None
        """What was done to the unlabelled items of a task from files."""
        if isinstance(domain, FileDomain):
            made = file_pools(domain.task, secret, domain.name, shortcuts)
            self.report = made.report
            self._splits = {name: Split(name, p.items, p.labels, p.groups) for name, p in made.pools.items()}
        else:
            self._splits = self._drawn(domain)

    def __repr__(self) -> str:
        return f"Splits({self.domain.name})"

    def split(self, name: str) -> Split:
        """A split by name. Raises `KeyError`."""
        return self._splits[name]

    def canaries(self, name: str) -> npt.NDArray[np.bool_]:
        """Which items (n,) of a split are answered for with the wrong label: some of DEV's, none of the others'."""
        count = len(self._splits[name])
        chosen = np.zeros(count, dtype=np.bool_)
        if name == "dev":
            order = self._secret.generator("canaries", self.domain.name).permutation(count)
            chosen[order[: max(1, round(count * CANARY_SHARE))]] = True
        return chosen

    def unlabelled(self) -> Split:
        """What counted runs train on: pool A, then pool B."""
        a, b = self._splits["pool_a"], self._splits["pool_b"]
        groups = np.concatenate([a.groups, b.groups + int(a.groups.max()) + 1])
        return Split("unlabelled", a.items.concat(b.items), np.concatenate([a.labels, b.labels]), groups)

    def data_version(self) -> str:
        """What a record was measured on: a hash of task version, world, and every item and label.

        Labels enter through a keyed hash, so that nobody can test a guess against it.
        """
        digest = hashlib.sha256(pack([TASK_VERSION, repr(self.domain.spec), self._secret.commitment()]))
        for name, split in self._splits.items():
            items = split.items
            texts = sorted(zip(items.ids, items.prompts, items.firsts, items.seconds, strict=True))
            labels = hashlib.sha256(split.labels.tobytes()).hexdigest()
            digest.update(pack([name, [list(row) for row in texts]]))
            digest.update(self._secret.draw("labels", self.domain.name, name, labels))
        return digest.hexdigest()[:16]

    def _drawn(self, domain: Domain) -> dict[str, Split]:
        splits: dict[str, Split] = {}
        used: set[str] = set()
        for name, size in split_sizes(domain).items():
            splits[name] = self._draw(domain, name, size, used)
            used.update(map(prompt_key, splits[name].items.prompts))
        return splits

    def _draw(self, domain: Domain, name: str, size: int, used: set[str]) -> Split:
        """`size` items whose prompts are not in `used`, in secret order, so that position tells nothing."""
        kept: list[tuple[ItemSet, Labels]] = []
        count, seen = 0, set[str]()
        for number in range(_ROUNDS):
            seed = self._secret.draw("pool", domain.name, name, number)
            items, labels = domain.sample(size + size // 8, seed)
            fresh = _fresh(items, used, seen, alone=self._alone and name in UNLABELLED)[: size - count]
            kept.append((items.take(fresh), labels[fresh]))
            count += len(fresh)
            if count == size:
                return self._shuffled(name, kept)
        raise TruthError(f"{domain.name}: only {count} of {size} distinct items for {name}; the world is too small")

    def _shuffled(self, name: str, kept: list[tuple[ItemSet, Labels]]) -> Split:
        items = ItemSet.of([item for part, _ in kept for item in part])
        labels = np.concatenate([part for _, part in kept])
        order = self._secret.generator("pool order", self.domain.name, name).permutation(len(items))
        items = items.take(order)
        _, groups = np.unique(np.array([prompt_key(prompt) for prompt in items.prompts]), return_inverse=True)
        return Split(name, items, labels[order].astype(np.int8), groups.astype(np.int64))


def split_sizes(domain: Domain) -> dict[str, int]:
    """Items of each split: half of the unlabelled ones are shown; DEV is half as large as BOARD and SEAL."""
    spec = domain.spec
    shown = spec.unlabelled // 2
    sizes = (spec.labelled, shown, spec.unlabelled - shown, spec.test // 2, spec.test, spec.test)
    return dict(zip(SPLITS, sizes, strict=True))


def prompt_key(prompt: str) -> str:
    """What counts as one prompt: letter case, white space and forms of a character make no difference."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def _fresh(items: ItemSet, used: set[str], seen: set[str], *, alone: bool) -> npt.NDArray[np.int64]:
    """Positions of items that no other split and no earlier item of this one has; `seen` is extended.

    `alone`: of items with one prompt, only the first.
    """
    positions, pair = [], items.kind == "pair"
    for index, (prompt, first, second) in enumerate(zip(items.prompts, items.firsts, items.seconds, strict=True)):
        key = "\n".join((prompt, second, first) if pair and second < first else (prompt, first, second))
        key = prompt_key(prompt) if alone else key
        if prompt_key(prompt) not in used and key not in seen:
            seen.add(key)
            positions.append(index)
    return np.array(positions, dtype=np.int64)
