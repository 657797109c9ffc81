"""The seeds x items bootstrap of the PGR: a second way to the interval, to check the formula that is reported."""

from __future__ import annotations

import numpy as np

from actors.evaluator.statistics.variance import Floats, Groups, Hits


def bootstrap_pgr(
    student: Hits,
    weak: Hits,
    ceiling: Hits,
    rng: np.random.Generator,
    *,
    groups: Groups | None = None,
    draws: int = 2000,
) -> Floats:
    """`draws` values of the PGR, sorted; nan where the resampled gap is not positive.

    Each draw resamples teachers (student and weak together), ceiling seeds and items (whole groups), with replacement.
    Percentiles 2.5 and 97.5 are the interval.
    """
    index = np.arange(student.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    items = _weights(int(index.max()) + 1, draws, rng)[:, index]
    teachers = _weights(student.shape[0], draws, rng)
    items /= items.sum(axis=1, keepdims=True)
    transfer, low = (_means(array, teachers, items) for array in (student, weak))
    high = _means(ceiling, _weights(ceiling.shape[0], draws, rng), items)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(high > low, (transfer - low) / (high - low), np.nan)
    return np.sort(values)


def _weights(count: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each of `count` is drawn, (draws, count)."""
    return rng.multinomial(count, np.full(count, 1.0 / count), size=draws).astype(np.float64)


def _means(hits: Hits, seeds: Floats, items: Floats) -> Floats:
    per_item = seeds @ hits.astype(np.float64) / hits.shape[0]
    return np.asarray(np.einsum("bn,bn->b", per_item, items))
