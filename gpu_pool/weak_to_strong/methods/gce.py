"""Generalised cross entropy (Zhang & Sabuncu 2018, arXiv 1805.07836)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks, losses

Q = 0.7


def train(run: MethodRun) -> Student:
    """Hard labels under a loss that bounds what a wrong label can cost."""
    config = run.config(loss=losses.gce(Q))
    return run.student(run.fit(blocks.hard(run.weak), config))
