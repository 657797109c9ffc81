from __future__ import annotations

import ast
import random
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_pool.weak_to_strong import recipes
from gpu_pool.weak_to_strong.families import FAMILIES, families_of_source
from gpu_pool.weak_to_strong.methods import path_of, registry
from gpu_pool.weak_to_strong.recipes import CHOICES, VANILLA, Recipe, canonical, crossover, method_source, mutate

RECIPES = st.builds(lambda **fields: Recipe(**fields), **{name: st.sampled_from(v) for name, v in CHOICES.items()})


@settings(max_examples=80, deadline=None)
@given(RECIPES)
def test_every_recipe_is_a_method_file_with_known_families(recipe: Recipe) -> None:
    source = method_source(recipe)
    tree = ast.parse(source)
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] == ["train"]
    assert all(len(line) <= 170 for line in source.splitlines())
    found = recipes.families(recipe)
    assert found
    assert set(found) <= set(FAMILIES)
    assert recipes.cost(recipe) > 0


@settings(max_examples=80, deadline=None)
@given(RECIPES)
def test_equal_programs_are_equal_recipes(recipe: Recipe) -> None:
    plain = canonical(recipe)
    assert canonical(plain) == plain
    assert method_source(plain) == method_source(recipe)


@settings(max_examples=80, deadline=None)
@given(RECIPES, st.integers(0, 2**32))
def test_a_mutation_is_another_valid_program(recipe: Recipe, seed: int) -> None:
    child = mutate(recipe, random.Random(seed))
    assert method_source(child) != method_source(recipe)
    assert mutate(recipe, random.Random(seed)) == child


@settings(max_examples=80, deadline=None)
@given(RECIPES, RECIPES, st.integers(0, 2**32))
def test_a_child_takes_every_live_field_from_a_parent(a: Recipe, b: Recipe, seed: int) -> None:
    child = crossover(a, b, random.Random(seed))
    for name, value in child.model_dump().items():
        assert value in (getattr(a, name), getattr(b, name), getattr(VANILLA, name))


def test_the_class_rate_of_ccs_is_a_setting_and_is_not_searched() -> None:
    assert "rate" not in CHOICES
    assert "blocks.ccs(run, layer=-1), 0.5)" in method_source(Recipe(relabel="ccs"))
    assert "blocks.ccs(run, layer=-1), 0.3)" in method_source(Recipe(relabel="ccs", rate=0.3))
    assert canonical(Recipe(rate=0.3)) == VANILLA
    assert set(Recipe.model_fields) == {*CHOICES, "rate"}


def test_families_come_from_code_not_from_words() -> None:
    assert families_of_source('"""An ensemble of curricula."""\n# evolution\nx = 1\n') == ["other"]
    assert families_of_source("from m import blocks\ny = blocks.agreement(run, l)\n") == ["data filtering"]
    assert families_of_source("def f(:\n") == ["other"]
    assert "distillation" in recipes.families(Recipe(relabel="probe"))
    assert recipes.families(Recipe(trainable="evolution")) == ["model internal", "evolutionary"]
    assert recipes.families(Recipe(relabel="em_prior")) == ["self-training", "UE"]
    assert recipes.families(Recipe(members=3, loss="gce")) == ["ensemble", "loss"]
    assert recipes.families(Recipe(relabel="ccs")) == ["UE", "model internal"]
    assert recipes.families(Recipe(relabel="elicit")) == ["UE"]
    assert recipes.families(Recipe(selection="overlap")) == ["data filtering"]
    assert recipes.families(Recipe(wise=0.5)) == ["ensemble"]
    assert families_of_source(path_of("vanilla").read_text()) == ["other"]
    assert families_of_source(path_of("confident").read_text()) == ["data filtering"]


def test_published_methods_belong_to_families() -> None:
    found = {name: families_of_source(path_of(name).read_text()) for name in registry.names()}
    assert {family for several in found.values() for family in several} >= set(FAMILIES) - {"distillation"}
    assert found["ue_fewshot"] == ["data filtering", "UE"]
    assert found["mdl_curriculum"][0:2] == ["data filtering", "curriculum"]
    assert found["evolution_lora"] == ["UE", "model internal", "evolutionary"]
    assert found["co_teaching"] == ["self-training", "data filtering"]


def test_fields_without_effect_do_not_make_another_recipe() -> None:
    assert canonical(Recipe(members=3, wise=0.5, start="probe")) == Recipe(members=3)
    assert canonical(Recipe(curriculum=True, start="probe")) == Recipe(curriculum=True)
    assert canonical(Recipe(relabel="elicit", target="soft", prior_share=0.5)) == Recipe(relabel="elicit")
    assert canonical(Recipe(trainable="diff_means", wise=0.5, loss="gce")) == Recipe(trainable="diff_means")
    assert canonical(Recipe(relabel="ccs", layer=-2)).layer == -2


def test_recipes_items_and_scores_need_no_torch() -> None:
    modules = ("recipes", "families", "items", "pgr", "methods", "methods.registry", "domains")
    code = "; ".join(f"import gpu_pool.weak_to_strong.{name}" for name in modules)
    code += "; import sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
