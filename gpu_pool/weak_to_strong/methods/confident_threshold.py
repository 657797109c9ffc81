"""Train only on confident labels, by the published baseline's rule: drop rows with LOW <= max(p, 1 - p) <= HIGH.

The baseline `train_only_on_confident_labels` of the published automated weak-to-strong researchers.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

LOW = 0.25
HIGH = 0.75


def train(run: MethodRun) -> Student:
    """Hard labels of the items above the threshold, the task's fixed protocol."""
    keep = blocks.confident_threshold(run.weak, LOW, HIGH)
    model = run.fit(blocks.hard(run.weak)[keep], indices=keep)
    return run.student(model)
