"""The pieces that texts are made of, as numbers: words, runs of words, lines, values after a sign.

What a piece says is lost; what is kept is in which texts it stands and, where something comes before it, after what.
That is all that a method can count without knowing what any text means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
RUNS = (1, 2, 4)
"""How many words before a word its frequency may depend on."""
_WORD = re.compile(r"\w+|[^\w\s]")
_VALUE = re.compile(r"(.*[=:])([^=:]+)", re.DOTALL)
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Units:
    """Pieces of one kind in `texts` texts: piece `unit[k]` stands in text `text[k]`, each once a text, by text.

    `context` (units,): what each piece stands after, numbered; none where frequency alone counts.
    """

    texts: int
    text: Ints
    unit: Ints
    context: Ints | None = None

    @property
    def size(self) -> int:
        """How many different pieces there are."""
        return int(self.unit.max(initial=-1)) + 1


class _Numbers(dict[object, int]):
    """Consecutive numbers, drawn as things are first seen."""

    def __missing__(self, key: object) -> int:
        self[key] = number = len(self)
        return number


def read(texts: Sequence[str]) -> dict[str, Units]:
    """Every kind of piece in these texts, by name."""
    words = [_WORD.findall(text) for text in texts]
    flat, sizes = _flat(words)
    lines = [[" ".join(line.split()) for line in text.splitlines() if line.strip()] for text in texts]
    found = {"words": _units(len(texts), flat, sizes), "tokens": named([text.split() for text in texts])}
    found["lines"], found["last"] = named(lines), named([row[-1:] for row in lines])
    found["whole"] = named([[" ".join(text.split())] for text in texts])
    for run in RUNS:
        found[f"after {run}"] = _after(len(texts), flat, sizes, run)
    found["values"] = _split(_values(line) for line in lines)
    found["line ends"] = _split(_ends(line) for line in lines)
    return found


def _flat(rows: Sequence[Sequence[str]]) -> tuple[Ints, Ints]:
    numbers = _Numbers()
    flat = np.fromiter(map(numbers.__getitem__, chain.from_iterable(rows)), dtype=np.int64)
    return flat, np.array([len(row) for row in rows], dtype=np.int64)


def named(rows: Sequence[Sequence[str]]) -> Units:
    """Pieces by themselves, a row for each text."""
    return _units(len(rows), *_flat(rows))


def _units(texts: int, flat: Ints, sizes: Ints, context: npt.NDArray[np.uint64] | None = None) -> Units:
    """Pieces (m,) of any numbers, text by text, each kept once a text; `context` (m,) of any numbers, too."""
    text = np.repeat(np.arange(texts), sizes)
    first, unit = _numbered(flat)
    kept = np.sort(text * np.int64(len(first) + 1) + unit)
    kept = kept[np.diff(kept, prepend=-1) != 0]
    text, unit = kept // (len(first) + 1), kept % (len(first) + 1)
    if context is None:
        return Units(texts, text, unit)
    return Units(texts, text, unit, _numbered(context[first].view(np.int64))[1])


def _numbered(values: Ints) -> tuple[Ints, Ints]:
    """Where each different value stands first, and for each value (m,) the number of its kind.

    Sorted, because `numpy.unique` hashes, which takes five times as long where nearly all values differ.
    """
    order = np.argsort(values, kind="stable")
    new = np.r_[True, np.diff(values[order]) != 0][: len(values)]
    numbers = np.empty(len(values), dtype=np.int64)
    numbers[order] = np.cumsum(new) - 1
    return order[new], numbers


def _after(texts: int, flat: Ints, sizes: Ints, run: int) -> Units:
    """Each word with the `run` words before it in the same text as its context."""
    place = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    words = flat.astype(np.uint64) + np.uint64(1)
    context = np.zeros(len(flat), dtype=np.uint64)
    for back in range(run, 0, -1):
        before = np.concatenate([np.zeros(min(back, len(words)), dtype=np.uint64), words[:-back]])[: len(words)]
        context = (context * _MIX + before) * _MIX
    inside = place >= run
    text = np.repeat(np.arange(texts), sizes)[inside]
    whole = (context * _MIX + words)[inside]
    return _units(texts, whole.view(np.int64), np.bincount(text, minlength=texts), context[inside])


def _split(rows: Iterable[Iterable[tuple[str, str]]]) -> Units:
    """Values by what they stand after."""
    listed = [list(row) for row in rows]
    flat, sizes = _flat([["\0".join(pair) for pair in row] for row in listed])
    numbers = _Numbers()
    context = np.fromiter((numbers[before] for row in listed for before, _ in row), dtype=np.uint64)
    return _units(len(listed), flat, sizes, context)


def _values(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`7*8=54` as 54 after `7*8=`, wherever it stands in a line."""
    for line in lines:
        for token in line.split():
            found = _VALUE.fullmatch(token) if "=" in token or ":" in token else None
            if found:
                yield found[1], found[2]


def _ends(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What follows the last sign of equality or comment in a line, or else its last word, after the rest of it."""
    for line in lines:
        cut = max(line.rfind("="), line.rfind("#"), line.rfind(":"))
        cut = line.rstrip().rfind(" ") if cut < 1 or cut == len(line) - 1 else cut
        if cut > 0:
            yield line[: cut + 1], line[cut + 1 :]
