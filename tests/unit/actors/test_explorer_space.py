from __future__ import annotations

import ast
import random
from collections import Counter

import numpy as np
import pytest

from actors.researcher.brains.explorer.directions import Leaning
from actors.researcher.brains.explorer.memory import Memory
from actors.researcher.brains.explorer.proposals import propose
from actors.researcher.brains.explorer.space import digest, features, idea, method_file, read_recipe
from actors.researcher.brains.explorer.values import BASE_MEAN, COLLAPSED, PUSH, BlockValues, Score, promise
from gpu_pool.weak_to_strong.families import families_of_source
from gpu_pool.weak_to_strong.recipes import VANILLA, Recipe, canonical, families, sample
from tests.unit.actors.researcher_world import NINE

DIRECTIONS = [direction.text for direction in NINE.researchers.directions]
RNG = random.Random(1)
RECIPES = [VANILLA, *(sample(RNG) for _ in range(120))]


def test_a_method_file_carries_its_recipe_and_stays_the_same_program() -> None:
    for recipe in RECIPES:
        text = method_file(recipe)
        compile(text, "method.py", "exec")
        assert read_recipe(text) == canonical(recipe)
        functions = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        assert functions == ["train"]
        assert families_of_source(text) == families(recipe)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def f(:",
        "x = 1",
        '"""recipe: {"epochs": 99}"""',
        '"""\nrecipe: {"epochs": 99}\n"""',
        '"""\nrecipe: [1]\n"""',
        '"""\nrecipe: {"__class__": 1}\n"""',
        '"""\nrecipe: {bad json\n"""',
        "(" * 9999,
    ],
)
def test_what_holds_no_recipe_gives_none(text: str) -> None:
    assert read_recipe(text) is None


def test_names_are_stable_and_tell_recipes_apart() -> None:
    different = {canonical(recipe) for recipe in RECIPES}
    assert len({digest(recipe) for recipe in different}) == len(different)
    assert all(len(idea(recipe)) <= 160 for recipe in RECIPES)
    assert idea(Recipe(selection="agreement", epochs=1)) == idea(Recipe(selection="agreement", epochs=3))
    assert features(VANILLA) == ()


def _distribution(text: str, count: int = 150) -> Counter[str]:
    leaning, rng = Leaning.of(text), random.Random(7)
    found: Counter[str] = Counter()
    for _ in range(count):
        recipe = leaning.sample(rng)
        assert recipe == canonical(recipe)
        found.update(features(recipe))
    total = sum(found.values())
    return Counter({name: round(1e6 * share / total) for name, share in found.items()})


def _distance(a: Counter[str], b: Counter[str]) -> float:
    return sum(abs(a[name] - b[name]) for name in a.keys() | b.keys()) / 2e6


def test_nine_directions_look_in_nine_places() -> None:
    distributions = [_distribution(text) for text in DIRECTIONS]
    same = _distance(distributions[0], _distribution(DIRECTIONS[0]))
    assert same == 0
    for first in range(9):
        for second in range(first):
            assert _distance(distributions[first], distributions[second]) > 0.2, (first, second)


def test_an_unknown_direction_gets_a_leaning_of_its_own() -> None:
    one, other = Leaning.of("Ask a rubber duck."), Leaning.of("Follow the moon.")
    assert one == Leaning.of("Ask a rubber duck.") != other
    assert one.sample(random.Random(0)) == canonical(one.sample(random.Random(0)))


def test_every_direction_proposes_new_valid_recipes() -> None:
    for text in DIRECTIONS:
        memory = Memory("r")
        seen = set()
        for number in range(5):
            recipe = propose(Leaning.of(text), memory, random.Random(number)).recipe
            assert recipe == canonical(recipe)
            assert digest(recipe) not in memory.avoided
            memory.avoided.add(digest(recipe))
            seen.add(recipe)
        assert len(seen) == 5


def test_ideas_of_others_are_left_to_them() -> None:
    leaning, memory = Leaning.of(DIRECTIONS[3]), Memory("r")
    for number in range(20):
        recipe = propose(leaning, memory, random.Random(number)).recipe
        assert idea(recipe) not in memory.taken
        memory.taken.add(idea(recipe))


def test_values_find_the_block_that_works() -> None:
    rng = random.Random(3)
    scores = []
    for _ in range(60):
        recipe = sample(rng)
        good = 0.4 if recipe.selection == "agreement" else 0.0
        scores.append(Score(features(recipe), 0.2 + good + rng.gauss(0, 0.05), 0.1))
    values = BlockValues(scores)
    assert values.ranking()[0][0] == "selection=agreement"
    assert values.mean(("selection=agreement",)) > values.mean(()) + 0.2


def test_without_scores_the_prior_speaks_and_draws_differ() -> None:
    values = BlockValues([])
    assert values.mean(("anything",)) == pytest.approx(BASE_MEAN)
    draws = values.draws([("a",), ("b",), ("a",)], np.random.default_rng(0))
    assert draws[0] == draws[2] != draws[1]


def test_a_pilot_that_collapsed_is_not_promising() -> None:
    good = {"status": "ok", "agree_weak": 0.8, "balance": 0.5, "weak_balance": 0.5, "prior_sides_with_student": 0.9}
    assert 0 < promise(good) <= PUSH
    assert promise({**good, "balance": 0.97}) == COLLAPSED
    assert promise({**good, "agree_weak": 0.5}) == COLLAPSED
    assert promise({**good, "status": "timeout"}) == COLLAPSED
    assert promise({**good, "prior_sides_with_student": None}) == 0
