"""A unified diff whose cost is bounded whatever the two texts are.

`difflib` compares equal lines with equal lines and takes minutes for 64 KiB of them. Here lines that are unique in
both texts are matched first (the longest increasing run of them, as in a patience diff), and what lies between is
compared cell by cell as long as a fixed number of cells lasts; a stretch that would take more is shown as replaced.
So a diff is always true, and for ordinary texts also short.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import Match, SequenceMatcher

from cluster.text import lines

MOST_CELLS = 400_000
"""Pairs of lines that are compared: about .1 s."""
CONTEXT = 3
Pair = tuple[int, int]


def unified_diff(old: str, new: str, old_name: str, new_name: str) -> list[str]:
    """Lines of the difference, without line feeds; none when the texts have the same lines."""
    before, after = lines(old), lines(new)
    found: list[str] = []
    for group in _Matcher(None, before, after).get_grouped_opcodes(CONTEXT):
        if not found:
            found += [f"--- {old_name}", f"+++ {new_name}"]
        (_, a0, _, b0, _), (_, _, a1, _, b1) = group[0], group[-1]
        found.append(f"@@ -{_range(a0, a1)} +{_range(b0, b1)} @@")
        for tag, i0, i1, j0, j1 in group:
            if tag == "equal":
                found += [f" {line}" for line in before[i0:i1]]
            else:
                found += [f"-{line}" for line in before[i0:i1]] + [f"+{line}" for line in after[j0:j1]]
    return found


def _range(start: int, stop: int) -> str:
    length = stop - start
    if length == 1:
        return str(start + 1)
    return f"{start + 1 if length else start},{length}"


class _Matcher(SequenceMatcher[str]):
    """The grouping of `difflib` over matches that are found in bounded time."""

    def set_seqs(self, a: Sequence[str], b: Sequence[str]) -> None:
        """Without the index that `difflib` makes of the second text and that nobody asks here."""
        self.a, self.b = a, b
        self.matching_blocks = self.opcodes = None

    def get_matching_blocks(self) -> list[Match]:
        """As in `difflib`: (place in one, place in the other, length), closed by an empty block."""
        blocks: list[Match] = []
        for i, j in matched(self.a, self.b):
            if blocks and (blocks[-1].a + blocks[-1].size, blocks[-1].b + blocks[-1].size) == (i, j):
                blocks[-1] = blocks[-1]._replace(size=blocks[-1].size + 1)
            else:
                blocks.append(Match(i, j, 1))
        return [*blocks, Match(len(self.a), len(self.b), 0)]


def matched(one: Sequence[str], other: Sequence[str], most_cells: int = MOST_CELLS) -> list[Pair]:
    """Places of lines that stay, rising in both texts."""
    found: list[Pair] = []
    at, left = (0, 0), most_cells
    for anchor in [*_anchors(one, other), (len(one), len(other))]:
        cost, pairs = _between(one, other, at, anchor, left)
        left -= cost
        found += pairs
        if anchor[0] < len(one):
            found.append(anchor)
        at = (anchor[0] + 1, anchor[1] + 1)
    return found


def _anchors(one: Sequence[str], other: Sequence[str]) -> list[Pair]:
    """Lines that stand once in each text, as many as rise in both."""
    once, often = Counter(one), Counter(other)
    places = {line: j for j, line in enumerate(other)}
    pairs = [(i, places[line]) for i, line in enumerate(one) if once[line] == 1 and often[line] == 1]
    tails: list[int] = []  # the least end of a rising run of each length
    ends: list[int] = []  # which pair that end is
    before: list[int] = []  # for each pair the one before it in its run, or -1
    for number, (_, j) in enumerate(pairs):
        length = bisect_left(tails, j)
        before.append(ends[length - 1] if length else -1)
        tails[length : length + 1], ends[length : length + 1] = [j], [number]
    run, number = list[Pair](), ends[-1] if ends else -1
    while number >= 0:
        run.append(pairs[number])
        number = before[number]
    return run[::-1]


def _between(
    one: Sequence[str], other: Sequence[str], start: Pair, stop: Pair, most_cells: int
) -> tuple[int, list[Pair]]:
    """The cells that it took, and pairs of equal lines between two places."""
    (i0, j0), (i1, j1) = start, stop
    head: list[Pair] = []
    while i0 < i1 and j0 < j1 and one[i0] == other[j0]:
        head.append((i0, j0))
        i0, j0 = i0 + 1, j0 + 1
    tail: list[Pair] = []
    while i0 < i1 and j0 < j1 and one[i1 - 1] == other[j1 - 1]:
        i1, j1 = i1 - 1, j1 - 1
        tail.append((i1, j1))
    cells = (i1 - i0) * (j1 - j0)
    if not cells or cells > most_cells:
        return 0, head + tail[::-1]
    common = [(i0 + i, j0 + j) for i, j in _common(one[i0:i1], other[j0:j1])]
    return cells, head + common + tail[::-1]


def _common(one: Sequence[str], other: Sequence[str]) -> Iterator[Pair]:
    """A longest common subsequence of two short texts."""
    rows = [[0] * (len(other) + 1)]
    for line in reversed(one):
        below, row = rows[-1], [0]
        for j in range(len(other) - 1, -1, -1):
            row.append(below[j + 1] + 1 if line == other[j] else max(row[-1], below[j]))
        rows.append(row[::-1])
    rows.reverse()
    i = j = 0
    while i < len(one) and j < len(other):
        if one[i] == other[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif rows[i + 1][j] >= rows[i][j + 1]:
            i += 1
        else:
            j += 1
