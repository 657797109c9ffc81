"""Whole steps on tiny models: pretraining, teacher, method files, students, scores."""

from __future__ import annotations

import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as torch_load
from safetensors.torch import save_file as torch_save

from gpu_pool.weak_to_strong import blocks, entrypoints
from gpu_pool.weak_to_strong.domains import Domain, write_pretrain_inputs
from gpu_pool.weak_to_strong.errors import DeadlineError, ItemError, MethodError, ModelError
from gpu_pool.weak_to_strong.methods import path_of
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.pgr import accuracy, pgr
from gpu_pool.weak_to_strong.recipes import Recipe, method_source
from gpu_pool.weak_to_strong.rng import global_streams
from gpu_pool.weak_to_strong.run import MethodRun, RunParams
from gpu_pool.weak_to_strong.student import Student

PARAMS = {"seed": 1, "epochs": 1, "lr": 1e-3}


def quiet(message: str, **numbers: float) -> None:
    assert message
    assert all(isinstance(value, int | float) for value in numbers.values())


@pytest.fixture
def method_dir(tmp_path: Path, folder: Path, chat: Domain) -> Path:
    items, labels = chat.sample(40, 1)
    inputs = tmp_path / "in"
    (inputs / "code").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    items.save(inputs / "items.arrow")
    weak = np.where(np.arange(40) % 4 == 0, 1 - labels, labels) * 0.6 + 0.2
    save_file({"probs": np.stack([1 - weak, weak], 1).astype(np.float32)}, inputs / "weak.safetensors")
    shutil.copytree(folder, inputs / "strong")
    return inputs


def run_method(inputs: Path, source: str, params: dict[str, Any] | None = None) -> dict[str, float]:
    (inputs / "code" / "method.py").write_text(source)
    return entrypoints.method(inputs, inputs.parent / "out", params or PARAMS, quiet)


RECIPES = [
    Recipe(relabel="crossfit", loss="logconf", epochs=1, trainable="top:1", helper_epochs=1),
    Recipe(
        relabel="em", rounds=1, helper_epochs=1, selection="agreement", epochs=1, loss="gce", weighting="confidence"
    ),
    Recipe(relabel="em_prior", rounds=2, helper_epochs=1, trainable="head", epochs=1, selection="small_loss"),
    Recipe(relabel="self_train", rounds=1, helper_epochs=1, members=3, epochs=1, trainable="top:1", loss="reverse_kl"),
    Recipe(relabel="probe", selection="confident", curriculum=True, epochs=1, target="soft", loss="product", ema=0.9),
    Recipe(trainable="probe", target="smoothed", prior_share=0.5, selection="confident"),
    Recipe(trainable="principal"),
    Recipe(trainable="evolution", layer=-2, selection="agreement", helper_epochs=1),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.relabel}-{r.trainable}-{r.selection}")
def test_recipes_train_to_students_that_predict(method_dir: Path, recipe: Recipe, folder: Path, chat: Domain) -> None:
    run_method(method_dir, method_source(recipe))
    student = Student.load(method_dir.parent / "out" / "student.safetensors", LabelModel.load(folder, "pair"))
    probs = student.predict(chat.sample(10, 9)[0])
    assert probs.shape == (10, 2)


@pytest.mark.parametrize("name", ["vanilla", "confident"])
def test_baselines_are_method_files_and_deterministic(method_dir: Path, name: str) -> None:
    outputs = []
    for _ in range(2):
        run_method(method_dir, path_of(name).read_text())
        outputs.append((method_dir.parent / "out" / "student.safetensors").read_bytes())
    assert outputs[0] == outputs[1]


def test_a_method_may_have_modules_next_to_it(method_dir: Path) -> None:
    (method_dir / "code" / "my_helper.py").write_text("SHARE = 0.5\n")
    run_method(
        method_dir, path_of("confident").read_text().replace("from __future__ import annotations", "import my_helper")
    )


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def train(run:\n", "line 1"),
        ("x = 1\n", "no function train"),
        ("def train(run):\n    return 3\n", "returned int"),
    ],
)
def test_methods_that_break_the_contract_are_named(method_dir: Path, source: str, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        run_method(method_dir, source)


def test_global_streams_start_from_the_runs_seed_and_are_left_as_they_were(method_dir: Path) -> None:
    source = (
        "import random\n\nimport numpy as np\nimport torch\n\nAT_IMPORT = random.random()\n\n\n"
        "def train(run):\n    raise ValueError([AT_IMPORT, float(torch.rand(1)), np.random.rand(), random.random()])\n"
    )
    before = torch.get_rng_state(), random.getstate()
    drawn = []
    for seed in (3, 4, 3):
        with pytest.raises(ValueError, match=r"^\[0\.") as caught:
            run_method(method_dir, source, PARAMS | {"seed": seed})
        drawn.append(caught.value.args[0])
        with global_streams(seed):
            assert drawn[-1] == [random.random(), float(torch.rand(1)), np.random.rand(), random.random()]
    assert drawn[0] == drawn[2] != drawn[1]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_a_methods_own_error_passes_through_and_the_deadline_ends_it(method_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_method(method_dir, "def train(run):\n    return 1 / 0\n")
    with pytest.raises(DeadlineError):
        run_method(method_dir, path_of("vanilla").read_text(), PARAMS | {"seconds": 1e-6})
    with pytest.raises(MethodError, match="epochs"):
        run_method(method_dir, path_of("vanilla").read_text(), {"epochs": 0})


def test_run_uses_cached_features_or_computes_the_same(method_dir: Path, folder: Path) -> None:
    shutil.copytree(folder, method_dir / "model")
    entrypoints.features(method_dir, method_dir, {}, quiet)
    cached = MethodRun.from_dir(method_dir, PARAMS)
    for name in ("features", "prior"):
        (method_dir / f"{name}.safetensors").rename(method_dir / f"{name}.old")
    fresh = MethodRun.from_dir(method_dir, PARAMS)
    assert np.array_equal(cached.hidden, fresh.hidden)
    assert np.array_equal(cached.prior, fresh.prior)
    assert cached.seconds_left() == math.inf


def test_teacher_ceiling_and_predict_by_files(method_dir: Path, folder: Path, chat: Domain) -> None:
    shutil.copytree(folder, method_dir / "model")
    out = method_dir.parent / "out"
    save_file({"labels": chat.sample(40, 1)[1]}, method_dir / "labels.safetensors")
    assert entrypoints.teacher(method_dir, out, PARAMS | {"members": 2}, quiet)["items"] == 40
    shutil.copy(out / "student.safetensors", method_dir / "student.safetensors")
    entrypoints.predict(method_dir, out, {}, quiet)
    probs = load_file(out / "probs.safetensors")["probs"]
    members = load_file(out / "members.safetensors")["members"]
    assert probs.shape == members.shape == (40, 2)
    assert probs.dtype == members.dtype == np.float32
    assert np.allclose(members.mean(axis=1), probs[:, 1], atol=1e-6)
    assert not np.allclose(members[:, 0], members[:, 1])
    assert entrypoints.ceiling(method_dir, out, PARAMS, quiet)["seconds"] > 0
    save_file({"labels": np.full(40, 7, np.int8)}, method_dir / "labels.safetensors")
    with pytest.raises(ItemError, match="of 0 and 1"):
        entrypoints.teacher(method_dir, out, PARAMS, quiet)
    with pytest.raises(ItemError, match="seconds"):
        entrypoints.predict(method_dir, out, {"seconds": 3}, quiet)


def test_the_protocol_says_which_weights_move_for_teachers_and_methods(method_dir: Path, folder: Path) -> None:
    shutil.copytree(folder, method_dir / "model")
    out, protocol = method_dir.parent / "out", PARAMS | {"trainable": "lora:2", "betas": [0.9, 0.95]}
    save_file({"labels": (np.arange(40) % 2).astype(np.int8)}, method_dir / "labels.safetensors")
    entrypoints.teacher(method_dir, out, protocol | {"device": "cpu"}, quiet)
    assert all(".lora_" in name for name in load_file(out / "student.safetensors"))
    shutil.copy(out / "student.safetensors", method_dir / "student.safetensors")
    entrypoints.predict(method_dir, out, {"device": "cpu", "threads": 1}, quiet)
    run_method(method_dir, path_of("vanilla").read_text(), protocol)
    assert all(".lora_" in name for name in load_file(out / "student.safetensors"))
    with pytest.raises(MethodError, match=r"trainable\n.*lora:r"):
        run_method(method_dir, path_of("vanilla").read_text(), PARAMS | {"trainable": "lora"})


def test_initial_gives_fresh_weights_of_the_same_shapes_and_type(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copytree(folder, tmp_path / "in" / "model")
    own = torch_load(folder / "model.safetensors")
    for half in (False, True):
        if half:
            torch_save({k: v.bfloat16() for k, v in own.items()}, tmp_path / "in" / "model" / "model.safetensors")
        drawn = []
        for seed in (1, 1, 2):
            entrypoints.initial(tmp_path / "in", tmp_path, {"seed": seed}, quiet)
            drawn.append(torch_load(tmp_path / "model.safetensors"))
        assert {k: v.shape for k, v in drawn[0].items()} == {k: v.shape for k, v in own.items()}
        assert {v.dtype for v in drawn[0].values()} == {torch.bfloat16 if half else torch.float32}
        table = "model.embed_tokens.weight"
        assert torch.equal(drawn[0][table], drawn[1][table])
        assert not torch.equal(drawn[0][table], drawn[2][table])
        assert not torch.equal(drawn[0][table].float(), own[table])
    for name in ("config.json", "tokenizer.json", "prompt.json"):
        shutil.copy(folder / name, tmp_path / name)
    assert LabelModel.load(tmp_path, "pair").layers == LabelModel.load(folder, "pair").layers


def test_pretraining_is_deterministic_learns_and_names_bad_input(tmp_path: Path, chat: Domain) -> None:
    params = write_pretrain_inputs(chat, "weak", tmp_path / "in")
    losses = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        losses.append(entrypoints.pretrain(tmp_path / "in", tmp_path / name, params, quiet)["loss"])
    assert losses[0] == losses[1]
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    long = entrypoints.pretrain(tmp_path / "in", tmp_path / "a", params | {"steps": 60}, quiet)["loss"]
    assert long < losses[0]
    with pytest.raises(ModelError, match="steps"):
        entrypoints.pretrain(tmp_path / "in", tmp_path / "a", params | {"steps": -1}, quiet)
    with pytest.raises(ModelError, match="fewer than one batch"):
        entrypoints.pretrain(tmp_path / "in", tmp_path / "a", params | {"batch": 10**6}, quiet)
    with pytest.raises(DeadlineError):
        entrypoints.pretrain(tmp_path / "in", tmp_path / "a", params | {"seconds": 1e-6}, quiet)


def test_noisy_channel_recovers_labels_from_two_independent_views() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=3000)
    weak = np.where(rng.random(3000) < 0.7, truth, 1 - truth) * 0.4 + 0.3
    prior = np.where(rng.random(3000) < 0.8, truth, 1 - truth) * 0.6 + 0.2
    posterior = blocks.noisy_channel(weak.astype(np.float32), prior.astype(np.float32))
    assert accuracy(posterior, truth) >= accuracy(prior, truth)
    agrees = (weak > 0.5) == (prior > 0.5)
    assert np.abs(posterior[agrees] - 0.5).mean() > np.abs(posterior[~agrees] - 0.5).mean()


def test_selection_and_targets_do_what_they_say(method_dir: Path) -> None:
    probs = np.array([0.5, 0.9, 0.2, 0.45], dtype=np.float32)
    assert blocks.confident(probs, 0.5).tolist() == [1, 2]
    assert blocks.hard(probs).tolist() == [0, 1, 0, 0]
    assert np.allclose(blocks.smooth(blocks.hard(probs), 0.2), [0.1, 0.9, 0.1, 0.1])
    assert blocks.confidence_weights(probs).mean() == pytest.approx(1)
    assert np.allclose(blocks.mix_prior(probs, probs, 0.3), probs, atol=1e-6)
    run = MethodRun.from_dir(method_dir, PARAMS)
    out_of_fold = blocks.cross_fit(run, blocks.hard(run.weak), run.config(epochs=1, trainable="head"))
    assert ((out_of_fold > 0) & (out_of_fold < 1)).all()


def test_weak_labels_of_the_wrong_length_are_refused(model: LabelModel, chat: Domain) -> None:
    with pytest.raises(MethodError, match="weak labels"):
        MethodRun(chat.sample(5, 1)[0], np.zeros(4), model, RunParams(trainable="full"))


def test_pgr_is_the_share_of_the_gap_and_nan_without_one() -> None:
    assert pgr(0.8, 0.7, 0.9) == pytest.approx(0.5)
    assert pgr(0.6, 0.7, 0.9) < 0
    assert math.isnan(pgr(0.8, 0.9, 0.9))
    assert accuracy(np.array([[0.4, 0.6], [0.5, 0.5], [0.1, 0.9]]), np.array([1, 1, 0])) == pytest.approx(1 / 3)
