"""An evolution strategy on low-rank changes of the top layer, with swap-consistency in the fitness.

After the published researchers' case study (CCS labels, then evolution on LoRA). `LABELS` says whose labels it agrees
with: `weak` or `ccs`, whose upper `RATE` are label 1 (the default assumes that the classes are balanced).
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

LABELS = "weak"
RATE = 0.5
EPOCHS = 2
RANK = 2
GENERATIONS = 20
POPULATION = 10


def train(run: MethodRun) -> Student:
    """A short fine-tuning on the labels, then evolution."""
    weak = blocks.hard(run.weak)
    labels = blocks.hard_at_rate(blocks.ccs(run), RATE) if LABELS == "ccs" else weak
    model = run.fit(labels, run.config(epochs=EPOCHS))
    return run.student(blocks.evolve_lora(run, model, labels, RANK, GENERATIONS, POPULATION))
