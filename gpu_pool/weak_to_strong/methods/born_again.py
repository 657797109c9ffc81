"""Born-again self-training: students relabel for fresh students (Furlanello et al. 2018, arXiv 1805.04770)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

ROUNDS = 2
HELPER_EPOCHS = 2


def train(run: MethodRun) -> Student:
    """Labels after ROUNDS rounds of self-training, the task's fixed protocol."""
    helper = run.config(epochs=HELPER_EPOCHS)
    labels = blocks.self_train(run, blocks.hard(run.weak), rounds=ROUNDS, config=helper)
    return run.student(run.fit(labels))
