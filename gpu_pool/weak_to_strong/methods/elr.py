"""Early-learning regularisation (Liu et al. 2020, arXiv 2007.00151)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

STRENGTH = 3.0
MEMORY = 0.7


def train(run: MethodRun) -> Student:
    """Hard labels, the student held to a running mean of its own predictions."""
    model = blocks.elr(run, blocks.hard(run.weak), strength=STRENGTH, memory=MEMORY)
    return run.student(model)
