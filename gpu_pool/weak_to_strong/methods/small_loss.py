"""Small-loss selection: the highest losses of each batch are left out (the selection step of arXiv 1804.06872)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

DROP = 0.4


def train(run: MethodRun) -> Student:
    """Hard labels; the share left out rises to DROP over the first 30 % of training."""
    config = run.config(drop_share=DROP)
    return run.student(run.fit(blocks.hard(run.weak), config))
