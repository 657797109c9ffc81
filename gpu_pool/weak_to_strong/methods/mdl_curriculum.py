"""MDL curriculum: items with short descriptions first, then all at half the learning rate.

As the published researchers had it: the teacher's confident half for 2 epochs, then all items for 3. With
`ORDER = "code"` the first half is the one whose labels a cross-fitted student says in the fewest bits.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

ORDER = "confidence"
SHARE = 0.5
EASY_EPOCHS = 2
ALL_EPOCHS = 3


def train(run: MethodRun) -> Student:
    """Hard labels in two parts."""
    labels = blocks.hard(run.weak)
    easy = blocks.shortest_code(run, labels, SHARE) if ORDER == "code" else blocks.confident(run.weak, SHARE)
    model = blocks.curriculum(run, labels, easy=easy, epochs=(EASY_EPOCHS, ALL_EPOCHS))
    return run.student(model)
