"""Unsupervised elicitation, zero-shot: train on the strong model's own labels, made consistent (published baseline).

Uses no weak label.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks


def train(run: MethodRun) -> Student:
    """Consistent, balanced zero-shot labels, the task's fixed protocol."""
    labels, keep = blocks.zero_shot_labels(run)
    return run.student(run.fit(labels[keep], indices=keep))
