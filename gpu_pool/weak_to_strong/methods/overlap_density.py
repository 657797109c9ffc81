"""Overlap density: keep items that carry both an easy and a hard pattern (arXiv 2412.03881)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

SHARE = 0.5
HARD_SHARE = 0.5
NEIGHBOURS = 10
LAYER = -1


def train(run: MethodRun) -> Student:
    """Hard labels of the densest share, the task's fixed protocol."""
    keep = blocks.overlap_density(run, SHARE, HARD_SHARE, NEIGHBOURS, layer=LAYER)
    return run.student(run.fit(blocks.hard(run.weak)[keep], indices=keep))
