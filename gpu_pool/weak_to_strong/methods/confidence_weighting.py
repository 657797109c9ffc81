"""Weight each item by the teacher's confidence |2p - 1|; this project's own."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks


def train(run: MethodRun) -> Student:
    """Hard labels, weighted, the task's fixed protocol."""
    weights = blocks.confidence_weights(run.weak)
    return run.student(run.fit(blocks.hard(run.weak), weights=weights))
