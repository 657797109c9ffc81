"""A probe improved by an evolution strategy; swapped pairs must get opposite answers.

This project's own; the strategy is that of Salimans et al. 2017 (arXiv 1703.03864).
"""

from __future__ import annotations

from gpu_pool.weak_to_strong import MethodRun, Student, blocks

LAYER = -1
GENERATIONS = 60
POPULATION = 24


def train(run: MethodRun) -> Student:
    """A linear head; fitness without truth, see `blocks.fitness`."""
    labels = blocks.hard(run.weak)
    probe = blocks.evolve_probe(run, labels, LAYER, GENERATIONS, POPULATION)
    return probe.student(run)
