"""Difference in means of the strong model's states by weak label (Marks & Tegmark 2023, arXiv 2310.06824)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

LAYER = -1


def train(run: MethodRun) -> Student:
    """A linear head along the difference."""
    return blocks.mean_difference(run, blocks.hard(run.weak), layer=LAYER).student(run)
