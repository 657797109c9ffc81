"""The principal direction of the strong model's states that goes best with the weak labels; this project's own."""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

LAYER = -1
COMPONENTS = 4


def train(run: MethodRun) -> Student:
    """A linear head along the direction."""
    return blocks.principal_probe(run, layer=LAYER, components=COMPONENTS).student(run)
