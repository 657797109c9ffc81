"""The exponential moving average of the student's weights over training; this project's own use of it."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

DECAY = 0.99


def train(run: MethodRun) -> Student:
    """Hard labels, averaged weights."""
    config = run.config(ema=DECAY)
    return run.student(run.fit(blocks.hard(run.weak), config))
