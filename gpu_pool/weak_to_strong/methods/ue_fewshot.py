"""Unsupervised elicitation, few-shot: labels refined with ever more of the model's own examples (published baseline).

Uses no weak label.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

SHOTS = (2, 4, 16)


def train(run: MethodRun) -> Student:
    """Consistent few-shot labels, the task's fixed protocol."""
    labels, keep = blocks.few_shot_labels(run, SHOTS)
    return run.student(run.fit(labels[keep], indices=keep))
