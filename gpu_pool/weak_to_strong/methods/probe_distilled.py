"""Labels of a probe teach a fine-tuned student (probe relabelling, as EleutherAI/w2s tried it)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

LAYER = -1


def train(run: MethodRun) -> Student:
    """Probabilities of a logistic probe as soft labels, the task's fixed protocol."""
    probe = blocks.fit_probe(run, blocks.hard(run.weak), layer=LAYER)
    return run.student(run.fit(probe.probs(run.hidden)))
