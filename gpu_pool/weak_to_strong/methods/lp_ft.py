"""LP-FT: linear probing, then fine-tuning from the probe (Kumar et al. 2022, arXiv 2202.10054)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

EPOCHS = 2
LR_SCALE = 0.2


def train(run: MethodRun) -> Student:
    """Label rows from a probe, then a short fine-tuning at a fraction of the learning rate."""
    labels = blocks.hard(run.weak)
    model = run.strong()
    blocks.start_from_probe(model, blocks.fit_probe(run, labels))
    run.finetune(model, labels, run.config(epochs=EPOCHS, lr=LR_SCALE * run.protocol.lr))
    return run.student(model)
