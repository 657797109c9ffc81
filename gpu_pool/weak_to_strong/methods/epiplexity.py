"""Epiplexity: out-of-fold labels, smoothed the more the less a learner could gain from them.

After the published researchers' case study (loss drop, adaptive smoothing, out-of-fold labels); see `blocks.loss_drop`.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

MOST = 0.6
HELPER_EPOCHS = 2


def train(run: MethodRun) -> Student:
    """Out-of-fold labels with a smoothing of their own, the task's fixed protocol."""
    labels = blocks.hard(run.weak)
    held_out = blocks.cross_fit(run, labels, run.config(epochs=HELPER_EPOCHS))
    gain = blocks.loss_drop(labels, held_out)
    targets = blocks.adaptive_smooth(blocks.hard(held_out), gain, most=MOST)
    return run.student(run.fit(targets))
