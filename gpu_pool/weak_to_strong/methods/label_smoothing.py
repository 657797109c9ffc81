"""Label smoothing against label noise (Lukasik et al. 2020, arXiv 2003.02819)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

SHARE = 0.2


def train(run: MethodRun) -> Student:
    """Hard labels moved towards a half."""
    return run.student(run.fit(blocks.smooth(blocks.hard(run.weak), SHARE)))
