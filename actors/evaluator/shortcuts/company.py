"""Which pieces keep company: how often two stand together against chance, and along which axes texts differ most."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from actors.evaluator.shortcuts.units import Units

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
MOST_PIECES = 600
"""Pieces of a kind whose company is counted: those that most texts have. Rarer ones are met too seldom to tell."""
AXES = 6


def _presence(units: Units) -> sparse.csr_matrix:
    """Which text (texts,) has which of the most frequent pieces that at least two have."""
    count = np.bincount(units.unit, minlength=units.size)
    kept = np.argsort(-count, kind="stable")[:MOST_PIECES]
    kept = kept[count[kept] > 1]
    column = np.full(units.size + 1, -1)
    column[kept] = np.arange(len(kept))
    place = column[units.unit]
    met = place >= 0
    shape = (units.texts, len(kept))
    return sparse.csr_matrix((np.ones(int(met.sum())), (units.text[met], place[met])), shape=shape)


class Company:
    """How well the pieces of one kind fit those of another in the same text; with itself, within a text."""

    def __init__(self, one: Units, other: Units | None = None) -> None:
        self._one = _presence(one)
        self._other = self._one if other is None else _presence(other)
        self._alone = other is None

    def figures(self, inside: Mask) -> Floats:
        """Mean and least, over a text's pieces, of how much more often than by chance others have them together."""
        found = np.zeros((len(inside), 2))
        if 0 in self._one.shape or 0 in self._other.shape:
            return found
        pool = inside.astype(np.float64)
        one, other = self._one.multiply(pool[:, None]).tocsr(), self._other.multiply(pool[:, None]).tocsr()
        counts = np.asarray((one.T @ other).todense())
        left, right, texts = np.asarray(one.sum(axis=0)).ravel(), np.asarray(other.sum(axis=0)).ravel(), pool.sum()
        for own, mask in ((1.0, inside), (0.0, ~inside)):
            if mask.any():
                together = np.maximum(counts - own, 0) + 0.5
                apart = np.outer(np.maximum(left - own, 0) + 0.5, np.maximum(right - own, 0) + 0.5)
                found[mask] = self._fit(np.log(together * max(1.0, texts - own) / apart), mask)
        return found

    def _fit(self, logs: Floats, mask: Mask) -> Floats:
        if self._alone:
            np.fill_diagonal(logs, 0.0)
        one, other = self._one[mask], self._other[mask].tocsr()
        sizes = np.diff(one.indptr)
        rows = np.repeat(np.arange(one.shape[0]), np.diff(other.indptr))
        fit = np.asarray(one @ logs)[rows, other.indices] / np.maximum(1, sizes[rows] - self._alone)
        found = np.zeros((one.shape[0], 2))
        some = np.flatnonzero(np.diff(other.indptr))
        if len(some):
            starts = other.indptr[:-1][some]
            found[some, 0] = np.add.reduceat(fit, starts) / np.diff(other.indptr)[some]
            found[some, 1] = np.minimum.reduceat(fit, starts)
        return found


class Axes:
    """Along which pieces texts differ most: the leading eigenvectors of how pieces vary together."""

    def __init__(self, units: Units) -> None:
        found = _presence(units)
        wide = np.sqrt(np.maximum(1.0, np.asarray(found.sum(axis=1)).ravel()))
        self._rows = found.multiply(1 / wide[:, None]).tocsr()

    def figures(self, inside: Mask) -> Floats:
        """Where each text lies on each axis (texts, AXES), the sign fixed by the piece that weighs most."""
        found = np.zeros((len(inside), AXES))
        if 0 in self._rows.shape:
            return found
        pool = self._rows[inside]
        mean = np.asarray(pool.mean(axis=0)).ravel()
        spread = np.asarray((pool.T @ pool).todense()) / pool.shape[0] - np.outer(mean, mean)
        _, vectors = np.linalg.eigh(spread)
        leading = vectors[:, ::-1][:, :AXES]
        leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])])
        found[:, : leading.shape[1]] = self._rows @ leading - mean @ leading
        return found
