"""Auxiliary confidence loss (Burns et al. 2023, arXiv 2312.09390, appendix A.4)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, losses

STRENGTH = 0.75
WARMUP = 0.2


def train(run: MethodRun) -> Student:
    """Soft labels mixed with the student's own hardened predictions; see `losses.logconf`."""
    config = run.config(loss=losses.logconf(STRENGTH, WARMUP))
    return run.student(run.fit(run.weak, config))
