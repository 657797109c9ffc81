"""Contrast-consistent search with its sign from the weak labels, distilled (Burns et al. 2022, arXiv 2212.03827).

The direction has no natural threshold: the `RATE` of items that lie farthest along it get label 1. The default assumes
that the classes are balanced.
"""

from __future__ import annotations

from typing import Literal

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

CONTRAST: Literal["auto", "labels", "swap"] = "auto"
LAYER = -1
RESTARTS = 10
CHOOSE: Literal["loss", "weak"] = "weak"
RATE = 0.5


def train(run: MethodRun) -> Student:
    """Labels of the consistent direction, the task's fixed protocol."""
    belief = blocks.ccs(run, contrast=CONTRAST, layer=LAYER, restarts=RESTARTS, choose=CHOOSE)
    labels = blocks.hard_at_rate(belief, RATE)
    return run.student(run.fit(labels))
