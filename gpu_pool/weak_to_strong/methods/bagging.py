"""Keep the items whose label a bag of students confirms that did not train on them (Breiman 1996)."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

MEMBERS = 4
HELPER_EPOCHS = 2


def train(run: MethodRun) -> Student:
    """Hard labels of the confirmed items, the task's fixed protocol."""
    labels = blocks.hard(run.weak)
    confirmed = blocks.out_of_bag(run, labels, MEMBERS, config=run.config(epochs=HELPER_EPOCHS))
    keep = (blocks.hard(confirmed) == labels).nonzero()[0]
    return run.student(run.fit(labels[keep], indices=keep))
