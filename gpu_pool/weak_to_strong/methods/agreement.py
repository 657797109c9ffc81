"""Keep the items on which a cross-fitted student agrees with the teacher (confident learning, arXiv 1911.00068)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

HELPER_EPOCHS = 2


def train(run: MethodRun) -> Student:
    """Hard labels of the agreed items, the task's fixed protocol."""
    labels = blocks.hard(run.weak)
    keep = blocks.agreement(run, labels, run.config(epochs=HELPER_EPOCHS))
    return run.student(run.fit(labels[keep], indices=keep))
