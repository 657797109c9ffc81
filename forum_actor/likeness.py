"""How alike two snapshots are, from short sketches of their lines: linear to make, .1 ms to compare.

A sketch holds the `SIZE` smallest hashes of a snapshot's lines, each line numbered by how often it has come before, and
how many lines there are in all (Broder 1997, bottom-k). Of snapshots with at most `SIZE` lines the likeness is exact;
above, its standard error is at most .02. Order does not count: code that was only moved about is the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest

SIZE = 512
MOST_REPEATS = 64
"""Of one line: a text of equal lines is not more than that."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is kept of a snapshot's lines: how many there are, and the smallest of their hashes."""

    count: int
    hashes: frozenset[int]


def sketch(said: Iterable[str]) -> Sketch:
    """The sketch of some lines; empty ones do not count."""
    counts = Counter(said)
    del counts[""]
    count = sum(min(often, MOST_REPEATS) for often in counts.values())
    return Sketch(count, frozenset(nsmallest(SIZE, _hashes(counts))))


def _hashes(counts: Mapping[str, int]) -> Iterator[int]:
    for line, often in counts.items():
        whole = blake2b(line.encode("utf-8", "replace"), digest_size=8)
        for number in range(min(often, MOST_REPEATS)):
            one = whole.copy()
            one.update(b"\n%d" % number)
            yield int.from_bytes(one.digest())


def likeness(one: Sketch, other: Sketch) -> float:
    """Twice the lines in common over all lines of both, 0 to 1; two empty snapshots are not alike."""
    if not one.hashes or not other.hashes:
        return 0.0
    union = one.hashes | other.hashes
    least = frozenset(nsmallest(SIZE, union)) if len(union) > SIZE else union
    jaccard = len(least & one.hashes & other.hashes) / len(least)
    return 2 * jaccard / (1 + jaccard)


def most_alike(one: Sketch, other: Sketch) -> float:
    """No likeness of two snapshots is greater; known from their lengths alone."""
    return 2 * min(one.count, other.count) / max(1, one.count + other.count)
