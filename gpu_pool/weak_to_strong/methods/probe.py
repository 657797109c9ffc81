"""Logistic probe on the strong model's states, trained on the weak labels, without fine-tuning (as EleutherAI/w2s)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

LAYER = -1
L2 = 0.01


def train(run: MethodRun) -> Student:
    """A linear head on one layer."""
    return blocks.fit_probe(run, blocks.hard(run.weak), layer=LAYER, l2=L2).student(run)
