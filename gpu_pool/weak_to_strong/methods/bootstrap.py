"""Bootstrapping through students of growing capacity (after Burns et al. 2023, arXiv 2312.09390, section 4.3.1)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

STAGES = ("probe", "top:1")
HELPER_EPOCHS = 2


def train(run: MethodRun) -> Student:
    """Labels of a chain of smaller students, then the task's fixed protocol."""
    helper = run.config(epochs=HELPER_EPOCHS)
    labels = blocks.bootstrap_chain(run, blocks.hard(run.weak), STAGES, helper)
    return run.student(run.fit(labels))
