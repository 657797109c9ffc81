"""Naive weak-to-strong training: fine-tune the strong model on the weak teacher's hard labels (arXiv 2312.09390)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks


def train(run: MethodRun) -> Student:
    """All items, hard labels, the task's fixed protocol."""
    model = run.fit(blocks.hard(run.weak))
    return run.student(model)
