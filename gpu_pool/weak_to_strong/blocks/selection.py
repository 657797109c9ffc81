"""Selection and weighting: which items, and how much each counts. Indices are int64, all functions deterministic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.blocks.relabel import cross_fit
from gpu_pool.weak_to_strong.blocks.targets import hard
from gpu_pool.weak_to_strong.models import FloatArray
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.trainer import TrainConfig

Index = npt.NDArray[np.int64]


def confident(probs: FloatArray, share: float = 0.5) -> Index:
    """Indices of the `share` of items on which `probs` is farthest from a half, most confident first."""
    keep = max(1, round(share * len(probs)))
    return np.argsort(-np.abs(np.asarray(probs) - 0.5), kind="stable")[:keep]


def confident_threshold(probs: FloatArray, low: float = 0.25, high: float = 0.75) -> Index:
    """Indices of the items that the published baseline keeps: those without `low` <= max(p, 1 - p) <= `high`.

    With two labels the lower bound never acts, so this is max(p, 1 - p) > `high`. All items when none is that sure.
    """
    top = np.maximum(probs, 1 - np.asarray(probs))
    keep = np.flatnonzero(~((top >= low) & (top <= high)))
    return keep if len(keep) else np.arange(len(top))


def confidence_weights(probs: FloatArray) -> FloatArray:
    """Example weights |2p - 1|, scaled to mean 1."""
    weight = np.abs(2 * np.asarray(probs, dtype=np.float32) - 1)
    return np.asarray(weight / max(float(weight.mean()), 1e-6), dtype=np.float32)


def unanimous(members: npt.ArrayLike) -> Index:
    """Indices of the items to which all k teachers give one label; `members` (n, k) are their P(label 1).

    Query by committee (Seung et al. 1992), used the other way round. All items when they agree on none.
    """
    votes = hard(members)
    keep = np.flatnonzero((votes == votes[:, :1]).all(axis=1))
    return keep if len(keep) else np.arange(len(votes))


def agreement(run: MethodRun, labels: FloatArray, config: TrainConfig | None = None) -> Index:
    """Indices of items on which a student that did not train on them agrees with `labels` (two folds).

    Keeps what strong and weak share (confident learning, arXiv 1911.00068). Costs one extra training. All items when
    none agrees.
    """
    keep = np.flatnonzero(hard(cross_fit(run, labels, config)) == hard(labels))
    run.log("agreement", kept=len(keep), of=len(labels))
    return keep if len(keep) else np.arange(len(labels))


def out_of_bag(
    run: MethodRun, labels: FloatArray, members: int = 4, share: float = 0.5, config: TrainConfig | None = None
) -> FloatArray:
    """Mean P(label 1) of each item (n,) over the students of a bag that did not train on it (Breiman 1996).

    Each of `members` students trains on a random `share` of the items, drawn without replacement; an item that all of
    them saw gets the mean of all. Costs members * share trainings.
    """
    config = config or run.config(epochs=2)
    rng = np.random.default_rng(run.seed)
    n = len(labels)
    total, seen, every = np.zeros(n), np.zeros(n), np.zeros(n)
    for number in range(members):
        inside = np.sort(rng.permutation(n)[: max(1, round(share * n))])
        model = run.fit(np.asarray(labels)[inside], replace(config, seed=config.seed + number), indices=inside)
        probs = run.predict(model)
        outside = np.ones(n, bool)
        outside[inside] = False
        total += probs * outside
        seen += outside
        every += probs
    return np.where(seen > 0, total / np.maximum(seen, 1), every / members).astype(np.float32)


def overlap_scores(states: FloatArray, probs: FloatArray, hard_share: float = 0.5, neighbours: int = 10) -> FloatArray:
    """How near each item (n,) lies to items that are hard for the teacher, in the strong model's `states` (n, d).

    The `hard_share` of items with the least confident `probs` are the hard ones; the score is the mean cosine
    similarity (of centred states) to the `neighbours` nearest of them, the item itself excluded.
    """
    centred = np.asarray(states, dtype=np.float32) - states.mean(axis=0)
    unit = centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6)
    difficult = np.sort(confident(probs, 1.0)[::-1][: max(1, round(hard_share * len(probs)))])
    similarity = unit @ unit[difficult].T
    similarity[difficult, np.arange(len(difficult))] = -np.inf
    count = min(neighbours, max(1, len(difficult) - 1))
    nearest = np.partition(similarity, -count, axis=1)[:, -count:]
    return np.asarray(np.where(np.isfinite(nearest), nearest, 0.0).mean(axis=1), dtype=np.float32)


def overlap_density(
    run: MethodRun, share: float = 0.5, hard_share: float = 0.5, neighbours: int = 10, layer: int = -1
) -> Index:
    """Indices of the `share` of items that carry both an easy and a hard pattern, densest first.

    Such items let the strong model learn the hard pattern from labels that the teacher gives by the easy one (Shin,
    Cooper & Sala 2024, arXiv 2412.03881). Easy: the teacher is sure; hard: in the strong model's hidden space the item
    lies among those of which the teacher is not sure. Ranked by the sum of both ranks. The paper finds its two cuts by
    change points; here they are shares.
    """
    near = overlap_scores(run.hidden[:, layer], run.weak, hard_share, neighbours)
    sure = np.abs(run.weak - 0.5)
    both = near.argsort(kind="stable").argsort(kind="stable") + sure.argsort(kind="stable").argsort(kind="stable")
    return np.argsort(-both, kind="stable")[: max(1, round(share * len(both)))]
