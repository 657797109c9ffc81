"""WiSE-FT: half-way between the pretrained and the fine-tuned weights (Wortsman et al. 2021, arXiv 2109.01903)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

SHARE = 0.5


def train(run: MethodRun) -> Student:
    """The naive student, pulled back towards the pretrained model."""
    model = run.fit(blocks.hard(run.weak))
    return run.student(blocks.interpolate(run, model, SHARE))
