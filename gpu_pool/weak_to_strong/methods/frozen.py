"""Only the upper layers move; the rest is computed once (variance argument: arXiv 2502.05075)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

TOP = 1


def train(run: MethodRun) -> Student:
    """Hard labels, the TOP upper layers and the label rows trained."""
    config = run.config(trainable=f"top:{TOP}")
    return run.student(run.fit(blocks.hard(run.weak), config))
