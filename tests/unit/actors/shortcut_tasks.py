"""Tasks whose pools give their truth away, and who would take it: counts of words, lines and steps, and no model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.items import ItemSet

Labels = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]
Split = Callable[[str], Sequence[str]]
CLAIMS, WORKS = 450, 5
TONES = (("late", "unsure", "hm"), ("verified", "checked", "sure"))


@dataclass(frozen=True)
class Works:
    """Items (n) with labels (n,) and the problem (n,) of each."""

    items: ItemSet
    labels: Labels
    problems: npt.NDArray[np.int64]

    def rows(self, some: slice) -> list[dict[str, object]]:
        """Items in the published format, grouped by problem."""
        chosen = range(len(self.labels))[some]
        return [
            {
                "question": self.items.prompts[i],
                "choice": self.items.firsts[i],
                "label": bool(self.labels[i]),
                "group": f"p{self.problems[i]}",
            }
            for i in chosen
        ]


def worked_sums(count: int, seed: int, doubt: float = 0.0) -> Works:
    """Solutions to sums, five to a problem. Right ones have only valid steps, wrong ones one or two invalid ones.

    A valid step is thus the usual one. With probability `doubt` a label is the other one, as where a solution may fail
    for something that is not in its steps.
    """
    world, rng = np.random.default_rng(0), np.random.default_rng(seed)
    drawn = dict.fromkeys(map(tuple, world.integers((2, 2, 0), (20, 20, 3), (4 * CLAIMS, 3)).tolist()))
    terms = [(f"{a}{'*+-'[op]}{b}", (a * b, a + b, a - b)[op]) for a, b, op in list(drawn)[:CLAIMS]]
    wrong = world.choice([-10, -3, -2, -1, 1, 2, 3, 10], (CLAIMS, 2))
    often = 1 / np.arange(1, CLAIMS + 1)
    prompts, works, labels = [], [], []
    for _ in range(-(-count // WORKS)):
        ids = rng.choice(CLAIMS, rng.integers(4, 8), p=often / often.sum())
        start = int(rng.integers(1, 10))
        for _ in range(WORKS):
            right = int(rng.integers(2))
            bad = set(rng.permutation(len(ids))[: 0 if right else int(rng.integers(1, 3))].tolist())
            lines, total = [], start
            for place, claim in enumerate(ids):
                value = terms[claim][1] + (int(wrong[claim, rng.integers(2)]) if place in bad else 0)
                tone = TONES[right if rng.random() < 0.65 else 1 - right]
                remark = f" {tone[rng.integers(3)]}" if rng.random() < 0.25 else ""
                lines.append(f"{terms[claim][0]}={value}{remark}")
                total += value
            prompts.append(f"Work out {start} + {' + '.join(terms[claim][0] for claim in ids)}.")
            works.append("Solution:\n" + "\n".join(lines) + f"\nTotal: {total}")
            labels.append(right if rng.random() >= doubt else 1 - right)
    n = len(prompts)
    items = ItemSet("binary", tuple(map(str, range(n))), tuple(prompts), tuple(works), ("",) * n)
    return Works(items, np.array(labels, np.int8), np.repeat(np.arange(n // WORKS), WORKS))


def accuracy(said: npt.NDArray[np.bool_], labels: Labels) -> float:
    """How right, both classes counting alike."""
    return float(np.mean([(said == (labels == 1))[labels == side].mean() for side in (0, 1)]))


def best_cut(figure: Floats, labels: Labels) -> float:
    """How right a threshold on `figure` is, when truth chooses threshold and side; at least a half by luck alone."""
    found = [accuracy(figure >= cut, labels) for cut in np.quantile(figure, np.linspace(0.05, 0.95, 19))]
    return max(*found, 1 - min(found))


def step_vote(items: ItemSet) -> npt.NDArray[np.bool_]:
    """Whether each work has, for every term of its problem, the step that most works with that term have."""
    rows, count = [], Counter[tuple[str, str]]()
    for prompt, work in zip(items.prompts, items.firsts, strict=True):
        steps = [line.split()[0] for line in work.split("\n")[1:-1]]
        rows.append(list(zip(prompt[:-1].split(" + ")[1:], steps, strict=True)))
        count.update(rows[-1])
    most = Counter[str]()
    for (term, _), number in count.items():
        most[term] = max(most[term], number)
    return np.array([all(count[pair] == most[pair[0]] for pair in row) for row in rows])


def usual(items: ItemSet, split: Split, together: Callable[[Floats], float]) -> Floats:
    """How usual the pieces of each answer are in the pool; of pairs, the second's less the first's."""
    sides = (items.firsts, items.seconds) if items.kind == "pair" else (items.firsts,)
    count = Counter(piece for side in sides for text in side for piece in set(split(text)))
    found = [
        np.array([together(np.log([count[piece] for piece in split(text)] or [1])) for text in side]) for side in sides
    ]
    return found[1] - found[0] if items.kind == "pair" else found[0]


def runs(length: int) -> Split:
    """The runs of so many words of a text."""

    def split(text: str) -> list[str]:
        words = re.findall(r"\w+|[^\w\s]", text)
        return [" ".join(words[at : at + length]) for at in range(len(words) - length + 1)]

    return split


def vote(items: ItemSet, problems: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each answer ends as most answers to its question do."""
    ends = [text.split()[-1] for text in items.firsts]
    count = Counter(zip(problems.tolist(), ends, strict=True))
    most = Counter[int]()
    for (problem, _), number in count.items():
        most[problem] = max(most[problem], number)
    return np.array([count[p, end] == most[p] for p, end in zip(problems.tolist(), ends, strict=True)])


COUNTS: dict[str, Callable[[ItemSet], Floats]] = {
    "length": lambda items: (
        usual(items, lambda text: [text], lambda _: 0.0)
        + [
            len(b) - len(a) if items.kind == "pair" else len(a)
            for a, b in zip(items.firsts, items.seconds, strict=True)
        ]
    ),
    "words": lambda items: usual(items, str.split, np.mean),
    "rarest word": lambda items: usual(items, str.split, np.min),
    "lines": lambda items: usual(items, str.splitlines, np.mean),
    "rarest line": lambda items: usual(items, str.splitlines, np.min),
    "runs of two": lambda items: usual(items, runs(2), np.mean),
    "runs of five": lambda items: usual(items, runs(5), np.mean),
}
"""Direct attackers, none of which the probe knows."""
