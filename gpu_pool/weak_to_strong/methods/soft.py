"""Soft labels: fine-tune on the weak teacher's probabilities (the default of openai/weak-to-strong)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student


def train(run: MethodRun) -> Student:
    """All items, the teacher's P(label 1), the task's fixed protocol."""
    return run.student(run.fit(run.weak))
