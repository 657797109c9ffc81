"""Teacher ensemble: the mean of several weak teachers (arXiv 2406.03199), on the items on which all of them agree.

With a single teacher it is `vanilla`.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks


def train(run: MethodRun) -> Student:
    """Hard labels of the unanimous items, the task's fixed protocol."""
    members = run.weak[:, None] if run.weak_members is None else run.weak_members
    keep = blocks.unanimous(members)
    run.log("unanimous", kept=len(keep), teachers=members.shape[1])
    labels = blocks.hard(blocks.pool_teachers(members))
    return run.student(run.fit(labels[keep], indices=keep))
