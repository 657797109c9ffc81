"""Train only on the items on which the weak teacher is most confident.

The baseline `train_only_on_confident_labels` of the published researchers, by a share in place of its threshold
(`confident_threshold`).
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

SHARE = 0.5


def train(run: MethodRun) -> Student:
    """Hard labels of the confident share, the task's fixed protocol."""
    keep = blocks.confident(run.weak, share=SHARE)
    model = run.fit(blocks.hard(run.weak)[keep], indices=keep)
    return run.student(model)
