"""The next recipe to try: candidates from the direction and from what is known, ordered by one Thompson draw."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from actors.researcher.brains.explorer.directions import Leaning
from actors.researcher.brains.explorer.memory import Memory
from actors.researcher.brains.explorer.space import features, idea
from actors.researcher.brains.explorer.values import BlockValues
from gpu_pool.weak_to_strong.recipes import Recipe, cost, crossover, mutate, sample

CANDIDATES = 40
PARENTS = 3
"""Best recipes that others are bred from."""
LEAN_BONUS = 0.06
"""Advantage, in PGR, of a recipe that holds a block of the direction."""
COST_PENALTY = 0.02
"""Disadvantage, in PGR, per cost of one vanilla run above the first: the budget buys fewer answers of a slow method."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recipe, and in words where it came from."""

    recipe: Recipe
    origin: str


def propose(leaning: Leaning, memory: Memory, rng: random.Random) -> Proposal:
    """A recipe that is new here and, where possible, whose idea nobody else holds."""
    candidates = _candidates(leaning, memory, rng)
    values = BlockValues(memory.scores())
    draws = values.draws([features(c.recipe) for c in candidates], np.random.default_rng(rng.getrandbits(63)))

    def worth(index: int) -> float:
        recipe = candidates[index].recipe
        bonus = LEAN_BONUS if leaning.fits(recipe) else 0.0
        return float(draws[index]) + bonus - COST_PENALTY * max(0.0, cost(recipe) - 1.0)

    return candidates[max(range(len(candidates)), key=worth)]


def _candidates(leaning: Leaning, memory: Memory, rng: random.Random) -> list[Proposal]:
    found: list[Proposal] = []
    spare: list[Proposal] = []
    for attempt in range(20 * CANDIDATES):
        proposal = _one(leaning, memory, rng) if attempt < 10 * CANDIDATES else Proposal(sample(rng), "a random recipe")
        if memory.known(proposal.recipe):
            continue
        (spare if idea(proposal.recipe) in memory.taken else found).append(proposal)
        if len(found) == CANDIDATES:
            break
    return found or spare or [Proposal(sample(rng), "a random recipe")]


def _one(leaning: Leaning, memory: Memory, rng: random.Random) -> Proposal:
    parents = memory.parents()[:PARENTS]
    if not parents or rng.random() >= leaning.breeding:
        return Proposal(leaning.sample(rng), "the direction")
    mother = rng.choice(parents)[0]
    if len(parents) > 1 and rng.random() < 0.5:
        father = rng.choice([recipe for recipe, _ in parents if recipe != mother] or [leaning.sample(rng)])
        return Proposal(mutate(crossover(mother, father, rng), rng), "a cross of two scored recipes")
    return Proposal(mutate(mother, rng), "a change of a scored recipe")
