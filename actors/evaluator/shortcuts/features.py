"""What can be counted of an item within its pool: how usual its pieces are, and how usual after what they stand.

Every figure is free of identity: it says how often others have a piece, never which piece it is. An item's own text
does not count towards its own figures.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from actors.evaluator.shortcuts.company import Axes, Company
from actors.evaluator.shortcuts.units import Ints, Units, named, read
from gpu_pool.weak_to_strong.items import ItemSet

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_NO_DIGITS = str.maketrans("", "", "0123456789")


class Texts:
    """The pieces of a pool's candidates, read once; `figures` counts them within any part of the pool."""

    def __init__(self, items: ItemSet) -> None:
        self.pair = items.kind == "pair"
        self.n = len(items)
        answers = [*items.firsts, *items.seconds] if self.pair else list(items.firsts)
        prompts = list(items.prompts) * (2 if self.pair else 1)
        self._units = read(answers)
        self._surface = _surface(prompts, answers)
        tokens = self._units["tokens"]
        asked = named([prompt.split() for prompt in prompts])
        self._kept = (Company(asked, tokens), Company(self._units["lines"]), Company(tokens), Axes(tokens))

    def figures(self, member: Mask) -> Floats:
        """Figures (n, k) of every candidate when `member` (n,) are the pool; of pairs, second answer less first."""
        inside = np.concatenate([member, member]) if self.pair else member
        columns = [self._surface]
        for units in self._units.values():
            columns.append(_usual(units, inside) if units.context is None else _expected(units, inside))
        columns += [part.figures(inside) for part in self._kept]
        found = np.hstack(columns)
        return found[self.n :] - found[: self.n] if self.pair else found


def _surface(prompts: list[str], answers: list[str]) -> Floats:
    """Lengths, digits, and how much of the prompt the answer repeats."""
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        words, asked = answer.split(), set(prompt.split())
        count, distinct = len(words), set(words)
        rows.append((
            np.log1p(len(answer)), np.log1p(count), answer.count("\n"), len(answer) - len(answer.translate(_NO_DIGITS)),
            len(distinct) / max(1, count), len(answer) / max(1, count), sum(map(answer.count, ".,;:!?")),
            len(distinct & asked) / max(1, len(distinct)), len(distinct & asked) / max(1, len(asked)),
        ))  # fmt: skip
    return np.array(rows, dtype=np.float64).reshape(len(answers), -1)


def _counted(units: Units, inside: Mask) -> tuple[Floats, Floats]:
    """In how many texts of the pool each piece stands (units,), and for each mention how many of these are others."""
    own = inside[units.text].astype(np.float64)
    count = np.bincount(units.unit, weights=own, minlength=units.size).astype(np.float64)
    return count, count[units.unit] - own


def _usual(units: Units, inside: Mask) -> Floats:
    """Of a text's pieces: mean and least of the logarithm of how many others have one, share that nobody has."""
    _, others = _counted(units, inside)
    logs = np.log(others + 0.5)
    return _by_text(units, [(logs, ("mean", "min", "max")), ((others == 0).astype(np.float64), ("mean",))])


def _expected(units: Units, inside: Mask) -> Floats:
    """Of a text's pieces that stand after something others have, too: the share of those who continue in this way.

    Its mean and least logarithm, how much rarer than the most usual continuation, and how many are not that one.
    """
    assert units.context is not None
    count, others = _counted(units, inside)
    context = units.context[units.unit]
    behind = np.bincount(units.context, weights=count)[context] - (count[units.unit] - others)
    rival = _rivals(units.context, count)[units.unit]
    known = behind > 0
    share = np.where(known, np.log((others + 0.5) / (behind + 1.0)), 0.0)
    ahead = np.where(known, np.log((others + 0.5) / (rival + 0.5)), 0.0)
    beaten, lonely = (known & (rival > others)).astype(np.float64), (known & (others == 0)).astype(np.float64)
    outvoted = (known & (rival > others + 1)).astype(np.float64)  # as a count is that leaves the item's own in
    return _by_text(units, [
        (share, ("mean", "min")), (ahead, ("mean", "min")), (beaten, ("mean", "max")),
        (outvoted, ("mean", "max")), (lonely, ("mean",)),
    ])  # fmt: skip


def _rivals(context: Ints, count: Floats) -> Floats:
    """How many have the most usual other continuation of the same context, for each piece (units,)."""
    rival = np.zeros(len(count))
    if not len(count):
        return rival
    order = np.lexsort((-count, context))
    starts = np.flatnonzero(np.r_[True, np.diff(context[order]) != 0])
    sizes = np.diff(np.r_[starts, len(order)])
    rival[order] = np.repeat(count[order[starts]], sizes)
    seconds = order[np.minimum(starts + 1, len(order) - 1)]
    rival[order[starts]] = np.where(sizes > 1, count[seconds], 0.0)
    return rival


def _by_text(units: Units, wanted: list[tuple[Floats, tuple[str, ...]]]) -> Floats:
    """Columns (texts,) for each value (mentions,) and each way to put a text's values together; 0 without any."""
    sizes = np.bincount(units.text, minlength=units.texts)
    some = np.flatnonzero(sizes)
    starts = (np.cumsum(sizes) - sizes)[some]
    columns = []
    for values, ways in wanted:
        for way in ways:
            column = np.zeros(units.texts)
            if len(some):
                ufunc = {"mean": np.add, "min": np.minimum, "max": np.maximum}[way]
                column[some] = ufunc.reduceat(values, starts) / (sizes[some] if way == "mean" else 1)
            columns.append(column)
    return np.column_stack(columns)
