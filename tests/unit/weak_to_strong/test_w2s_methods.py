"""The published methods: registry, files, and that each trains on pairs and on single answers."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpu_pool.weak_to_strong import blocks, recipes
from gpu_pool.weak_to_strong.domains import Domain, write_pretrain_inputs
from gpu_pool.weak_to_strong.entrypoints import load_method
from gpu_pool.weak_to_strong.errors import MethodError
from gpu_pool.weak_to_strong.methods import BASELINES, path_of, registry
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.pretrain import pretrain_model
from gpu_pool.weak_to_strong.run import MethodRun, RunParams
from gpu_pool.weak_to_strong.student import Student
from tests.unit.weak_to_strong.conftest import tiny_domain

SMALL: dict[str, dict[str, Any]] = {
    "bagging": {"members": 2, "helper_epochs": 1},
    "born_again": {"rounds": 1, "helper_epochs": 1},
    "critic": {"samples": 2, "tokens": 3, "judge_epochs": 1},
    "ue_fewshot": {"shots": (2,)},
    "evolution_lora": {"generations": 2, "population": 4, "labels": "ccs"},
    "mdl_curriculum": {"order": "code", "easy_epochs": 1, "all_epochs": 1},
    "em_posterior": {"start": "prior", "bins": 2},
}


def _random_recipes(count: int) -> list[recipes.Recipe]:
    """Recipes that together hold every choice of every field, at one epoch."""
    rng = random.Random(8)
    columns = {name: [*values] * (count // len(values) + 1) for name, values in recipes.CHOICES.items()}
    for values in columns.values():
        rng.shuffle(values)
    small = {"epochs": 1, "helper_epochs": 1, "rounds": 2}
    return [recipes.Recipe(**({k: v[i] for k, v in columns.items()} | small)) for i in range(count)]


RANDOM_RECIPES = _random_recipes(30)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, model: LabelModel, chat: Domain) -> dict[str, MethodRun]:
    """A run on pairs and one on single answers; 24 items each."""
    math = tiny_domain("math")
    root = tmp_path_factory.mktemp("math")
    pretrain_model(root / "in", root / "out", write_pretrain_inputs(math, "strong", root / "in"))
    bases = {"pair": (chat, model), "binary": (math, LabelModel.load(root / "out", "binary"))}
    runs = {}
    for kind, (domain, base) in bases.items():
        items, labels = domain.sample(24, 1)
        weak = np.where(np.arange(24) % 4 == 0, 1 - labels, labels) * np.linspace(0.2, 0.9, 24)
        runs[kind] = MethodRun(items, 0.05 + 0.9 * weak, base, RunParams(seed=1, epochs=1, lr=1e-3, trainable="full"))
    return runs


@pytest.mark.parametrize("kind", ["pair", "binary"])
@pytest.mark.parametrize("name", registry.names())
def test_every_method_trains_a_student_that_predicts(
    worlds: dict[str, MethodRun], name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worlds[kind]
    given: dict[str, Any] = SMALL.get(name, {})
    (tmp_path / "method.py").write_text(registry.source_of(name, **given))
    monkeypatch.syspath_prepend(str(tmp_path))
    student = load_method(tmp_path).train(run)
    assert isinstance(student, Student)
    probs = student.predict(run.items.take(range(6)))
    assert probs.shape == (6, 2)
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5)


class Recording(MethodRun):
    """A run that keeps the models of which it made students."""

    def student(self, model: LabelModel) -> Student:
        self.__dict__.setdefault("made", []).append(model)
        return super().student(model)


@pytest.mark.parametrize("trainable", ["lora:4", "top:1"])
@pytest.mark.parametrize("name", registry.names())
def test_every_method_keeps_to_what_the_protocol_trains_and_leaves_the_base_alone(
    worlds: dict[str, MethodRun], name: str, trainable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = worlds["pair"]
    run = Recording(given.items, given.weak, given.base, RunParams(seed=1, epochs=2, lr=1e-2, trainable=trainable))
    before = {key: value.detach().clone() for key, value in run.base.lm.named_parameters()}
    (tmp_path / "method.py").write_text(registry.source_of(name, **SMALL.get(name, {})))
    monkeypatch.syspath_prepend(str(tmp_path))
    student = load_method(tmp_path).train(run)
    assert all(torch.equal(value, before[key]) for key, value in run.base.lm.named_parameters())
    assert run.base.lora is None
    probs = student.predict(run.items)
    assert np.isfinite(probs).all()
    models: list[LabelModel] = run.__dict__.get("made", [])
    if len(models) == 1:
        assert np.allclose(probs, models[0].probs(run.items), atol=1e-6)
        assert not np.allclose(probs, run.base.probs(run.items), atol=1e-4), "the student learnt"
    if name not in ("evolution_lora", "frozen"):  # merged adapters, and a choice of its own
        moved = [key for key in student.tensors if key in before]
        assert all(f".layers.{run.base.layers - 1}." in key or "norm" in key for key in moved)
        assert trainable != "lora:4" or not moved


@pytest.mark.parametrize("seed", range(30))
def test_random_recipes_train(worlds: dict[str, MethodRun], seed: int) -> None:
    recipe = RANDOM_RECIPES[seed]
    run = worlds["binary" if seed % 2 else "pair"]
    scope: dict[str, Any] = {}
    exec(compile(recipes.method_source(recipe), "method.py", "exec"), scope)
    probs = scope["train"](run).predict(run.items.take(range(4)))
    assert np.isfinite(probs).all()


@pytest.mark.parametrize("name", registry.names())
def test_a_files_constants_are_the_registrys_defaults(name: str) -> None:
    tree = ast.parse(path_of(name).read_text())
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id.lower()] = ast.literal_eval(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            constants[node.target.id.lower()] = ast.literal_eval(node.value)
    assert constants == dict(registry.parameters(name))
    assert ast.get_docstring(tree)
    assert len(registry.describe(name)) > 10


def test_every_method_names_its_source_or_is_called_this_projects_own() -> None:
    own = {name for name in registry.names() if "this project's own" in path_of(name).read_text().lower()}
    assert own == {"confidence_weighting", "cross_fit", "early_stop", "ema", "evolution", "principal"}
    readme = " ".join(
        (Path(__file__).parents[3] / "gpu_pool/weak_to_strong/README.md").read_text(encoding="utf-8").split()
    )
    count = len(registry.names())
    assert f"{count} methods as plain files ({count - len(own)} published or after a published one" in readme
    assert f"{len(own)} of this project's own)" in readme


def test_parameters_become_literals_and_nothing_else_changes() -> None:
    plain = path_of("logconf").read_text()
    assert registry.source_of("logconf") == plain
    changed = registry.source_of("logconf", strength=0.5)
    different = [(a, b) for a, b in zip(plain.splitlines(), changed.splitlines(), strict=True) if a != b]
    assert different == [("STRENGTH = 0.75", "STRENGTH = 0.5")]
    assert 'STAGES = ("top:1",)' in registry.source_of("bootstrap", stages=("top:1",))
    assert 'ENGINE: Literal["transformers", "vllm"] = "vllm"' in registry.source_of("critic", engine="vllm")
    assert 'CONTRAST: Literal["auto", "labels", "swap"] = "swap"' in registry.source_of("ccs", contrast="swap")


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("nothing", {}, "expected one of vanilla"),
        ("logconf", {"strength": 2.0}, "parameter strength"),
        ("logconf", {"alpha": 0.5}, "parameter alpha.*strength, warmup"),
        ("em_posterior", {"start": "sky"}, "parameter start"),
    ],
)
def test_a_wrong_name_or_parameter_is_named(name: str, given: dict[str, object], says: str) -> None:
    with pytest.raises(MethodError, match=says):
        registry.source_of(name, **given)


def test_baselines_are_methods() -> None:
    assert set(BASELINES) <= set(registry.names())
    files = {path.stem for path in path_of("vanilla").parent.glob("*.py")}
    assert files - set(registry.names()) == {"__init__", "registry", "ceiling", "teacher", "truth"}


def test_elicited_labels_use_no_weak_label(worlds: dict[str, MethodRun]) -> None:
    for run in worlds.values():
        other = MethodRun(run.items, 1 - run.weak, run.base, RunParams(seed=run.seed, trainable="full"))
        for make in (blocks.zero_shot_labels, lambda r: blocks.few_shot_labels(r, (2,))):
            assert np.array_equal(make(run)[0], make(other)[0])
