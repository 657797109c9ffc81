"""Reverse KL divergence, mode seeking (arXiv 2502.11107)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, losses

FLOOR = 0.02


def train(run: MethodRun) -> Student:
    """Soft labels under KL(student || teacher)."""
    config = run.config(loss=losses.reverse_kl(FLOOR))
    return run.student(run.fit(run.weak, config))
