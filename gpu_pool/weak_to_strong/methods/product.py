"""Product confidence loss (openai/weak-to-strong): targets proportional to p_strong^b p_weak^a."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, losses

POWER = 1.0
WARMUP = 0.2
WEAK_POWER = 1.0


def train(run: MethodRun) -> Student:
    """Soft labels sharpened by the student's own belief; see `losses.product`."""
    config = run.config(loss=losses.product(POWER, WARMUP, WEAK_POWER))
    return run.student(run.fit(run.weak, config))
