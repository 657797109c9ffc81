"""Relabelling: students whose predictions become the next student's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gpu_pool.weak_to_strong.blocks.probes import fit_probe
from gpu_pool.weak_to_strong.blocks.targets import hard
from gpu_pool.weak_to_strong.models import FloatArray
from gpu_pool.weak_to_strong.run import Fit, MethodRun
from gpu_pool.weak_to_strong.trainer import TrainConfig


def cross_fit(run: MethodRun, labels: FloatArray, config: TrainConfig | None = None, folds: int = 2) -> FloatArray:
    """P(label 1) of each item by a student trained on the other folds (n,)."""
    config = config or run.config(epochs=2)
    fold = np.random.default_rng(run.seed).permutation(len(labels)) % folds
    out = np.zeros(len(labels), dtype=np.float32)
    given, inside = np.asarray(labels), [np.flatnonzero(fold != number) for number in range(folds)]
    for number, model in enumerate(run.fit_many([Fit(given[index], config, index) for index in inside])):
        outside = np.flatnonzero(fold == number)
        out[outside] = run.predict(model, outside)
    return out


def self_train(run: MethodRun, labels: FloatArray, rounds: int = 2, config: TrainConfig | None = None) -> FloatArray:
    """Hard labels of the last of `rounds` students, each trained afresh on the labels of the one before.

    Born-again networks: Furlanello et al. 2018, arXiv 1805.04770.
    """
    config = config or run.config(epochs=2)
    for number in range(rounds):
        model = run.fit(labels, replace(config, seed=config.seed + number))
        labels = hard(run.predict(model))
    return labels


def bootstrap_chain(
    run: MethodRun, labels: FloatArray, stages: Sequence[str] = ("probe", "top:1"), config: TrainConfig | None = None
) -> FloatArray:
    """Hard labels at the end of a chain of students of growing capacity, each taught by the one before.

    Bootstrapping of Burns et al. 2023 (arXiv 2312.09390, section 4.3.1) goes through models of growing size. A run has
    one strong model, so the steps between are parts of it: `probe` (linear on the last layer), `top:k`, `full`.
    """
    config = config or run.config(epochs=2)
    for stage in stages:
        if stage == "probe":
            labels = hard(fit_probe(run, labels).probs(run.hidden))
        else:
            labels = hard(run.predict(run.fit(labels, replace(config, trainable=stage))))
    return labels
