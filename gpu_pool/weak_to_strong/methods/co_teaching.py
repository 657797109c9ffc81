"""Co-teaching: two students choose each other's small-loss examples (Han et al. 2018, arXiv 1804.06872)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

DROP = 0.4


def train(run: MethodRun) -> Student:
    """The first of two students that teach each other from hard labels."""
    first, _ = blocks.co_teach(run, blocks.hard(run.weak), drop=DROP)
    return run.student(first)
