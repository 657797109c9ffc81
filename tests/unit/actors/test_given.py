"""Given models in the node cache, and what is refused of a task from files before anything starts."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.evaluator.file_domain import FileDomain, read_domain
from actors.evaluator.given import GivenModels, asked, install
from actors.evaluator.lease_client import WorkError
from actors.evaluator.preflight import _look, _student_bytes, check_files
from actors.evaluator.result_store import ResultStore
from actors.evaluator.secret import Secret
from cluster.config import CampaignConfig, ConfigError, load_config
from cluster.journal import Journal
from cluster.store import Store
from gpu_pool.cache import NodeCache
from gpu_pool.weak_to_strong.folders import prompt_format
from gpu_pool.weak_to_strong.formats import PUBLISHED, PUBLISHED_LENGTH
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune
from tests.unit.actors.task_files import model_folder, row, rows_of, write_rows
from tests.unit.weak_to_strong.conftest import tiny_domain

DOMAIN = tiny_domain("chat")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task folder `lab` with two models beside it."""
    root = tmp_path_factory.mktemp("files")
    write_rows(root / "lab", rows_of(DOMAIN))
    for which in ("weak", "strong"):
        model_folder(DOMAIN, which, root / which)
    return root


def config(place: Path, *overrides: str, cache: Path | None = None) -> CampaignConfig:
    files = {"path": place / "lab", "weak": place / "weak", "strong": place / "strong"}
    named = [f"task.files.lab.{name}={json.dumps(str(value))}" for name, value in files.items()]
    home = f"pool.cache_dir={json.dumps(str(cache or place / 'cache'))}"
    small = "task.files.lab.protocol={epochs: 2, trainable: full, lr: 0.001}"
    return load_config("quickstart", overrides=(*named, "task.domains=[lab]", home, small, *overrides))


def file_domain(settings: CampaignConfig) -> FileDomain:
    found = read_domain(settings.task, "lab")
    assert isinstance(found, FileDomain)
    return found


def models(settings: CampaignConfig, run: Path) -> GivenModels:
    store = Store(run / "evaluator.db")
    result_store = ResultStore(store, Journal(store), Secret(bytes(32)))
    return GivenModels(file_domain(settings), NodeCache.of(settings.pool), result_store)


def refused(place: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_files(config(place, *overrides))
    return str(caught.value)


# The node cache


def test_a_given_model_is_whole_readable_by_all_and_asked_as_configured(place: Path, tmp_path: Path) -> None:
    settings = config(place, "task.files.lab.max_length=40", cache=tmp_path / "cache")
    given = models(settings, tmp_path)
    folder = asyncio.run(given.model("strong"))
    assert folder == given.folder("strong")
    assert folder.is_relative_to(NodeCache.of(settings.pool).models)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    model = LabelModel.load(folder, "pair")
    assert model.max_length == 40
    assert model.fmt == replace(prompt_format(place / "strong", "pair"), max_length=40)
    items = file_domain(settings).task.test.items
    assert (model.probs(items) == LabelModel.load(place / "strong", "pair", max_length=40).probs(items)).all()


def test_an_entry_is_named_by_content_and_format_and_made_once(place: Path, tmp_path: Path) -> None:
    cache, fmt = NodeCache.of(config(place, cache=tmp_path / "cache").pool), prompt_format(place / "weak", "pair")
    first = install(place / "weak", fmt, cache, lasting=False)
    copy = tmp_path / "copy"
    shutil.copytree(place / "weak", copy)
    before = cache.entry(first).stat().st_mtime_ns
    assert install(copy, fmt, cache, lasting=False) == first
    assert cache.entry(first).stat().st_mtime_ns == before
    assert install(copy, replace(fmt, max_length=7), cache, lasting=False) != first
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert install(copy, fmt, cache, lasting=False) != first


def test_only_lasting_files_are_linked_so_a_folder_may_change_later(place: Path, tmp_path: Path) -> None:
    cache, fmt = NodeCache.of(config(place, cache=tmp_path / "cache").pool), prompt_format(place / "weak", "pair")
    source = tmp_path / "hub"
    shutil.copytree(place / "weak", source)
    (source / "model.safetensors").chmod(0o644)
    copied = cache.entry(install(source, fmt, cache, lasting=False))
    assert not (copied / "model.safetensors").samefile(source / "model.safetensors")
    linked = cache.entry(install(source, replace(fmt, max_length=9), cache, lasting=True))
    assert (linked / "model.safetensors").samefile(source / "model.safetensors")


def test_a_resumed_campaign_needs_no_source_while_the_cache_has_it_and_refuses_another(
    place: Path, tmp_path: Path
) -> None:
    source = tmp_path / "mine"
    shutil.copytree(place / "strong", source)
    settings = config(place, f"task.files.lab.strong={json.dumps(str(source))}", cache=tmp_path / "cache")
    folder = asyncio.run(models(settings, tmp_path).model("strong"))
    shutil.rmtree(source)
    assert asyncio.run(models(settings, tmp_path).model("strong")) == folder
    shutil.rmtree(folder)
    shutil.copytree(place / "strong", source)
    (source / "config.json").write_text((source / "config.json").read_text() + " ")
    with pytest.raises(WorkError, match=r"is not the one that this campaign began with .*: put the old one back"):
        asyncio.run(models(settings, tmp_path).model("strong"))


def test_published_models_are_asked_as_published_and_a_setting_wins(place: Path) -> None:
    hub = [f"task.files.lab.{w}={n}" for w, n in (("weak", "Qwen/Qwen1.5-0.5B-Chat"), ("strong", "Qwen/Qwen3-4B-Base"))]
    bare = place / "lab"  # a folder without prompt.json
    (bare / "tokenizer_config.json").write_text("{}")
    published = file_domain(config(place, *hub))
    assert asked(published, "weak", bare) == replace(PUBLISHED["pair"], chat=True, max_length=PUBLISHED_LENGTH)
    assert asked(published, "strong", bare) == replace(PUBLISHED["pair"], max_length=PUBLISHED_LENGTH)
    own = file_domain(config(place, *hub, "task.files.lab.weak_chat=false", "task.files.lab.max_length=100"))
    assert asked(own, "weak", bare) == replace(PUBLISHED["pair"], max_length=100)
    (bare / "tokenizer_config.json").unlink()


# Before anything starts


def test_a_usable_task_gives_its_sizes_and_what_was_dropped_or_cut(place: Path) -> None:
    notes = check_files(config(place, "task.files.lab.max_length=12"))
    assert notes[-4].startswith("lab: train_label ")
    assert "seal 80 items" in notes[-4]
    assert notes[-3].startswith("pools of lab: one item a question, shortcut ")
    assert notes[-2].endswith("texts are cut to the 12 tokens of the weak model")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.files.lab.path=/nowhere/at/all", "task.files.lab.path: no task '/nowhere/at/all': expected"),
        ("task.files.lab.strong=/nowhere", "task.files.lab.strong: /nowhere: no such model folder"),
        ("task.files.lab.weak_chat=true", "task.files.lab.weak: the prompt format asks for a chat template"),
        ("task.files.lab.max_length=100000", "task.files.lab.max_length: 100000 is more than the 256 positions"),
        ("task.files.lab.protocol={trainable: 'top:9'}", "task.files.lab.protocol.trainable: trainable 'top:9'"),
        ("task.files.lab.teacher={trainable: 'top:9'}", "task.files.lab.teacher.trainable: trainable 'top:9'"),
        ("pool.file_gb=0.00001", "pool.file_gb: 1e-05 cannot hold the strong model's states of"),
    ],
)
def test_what_cannot_run_is_refused_by_field_and_reason(place: Path, override: str, message: str) -> None:
    assert refused(place, override).startswith(message)


def test_a_student_that_is_too_large_names_the_setting_and_the_size_that_would_do(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.evaluator.preflight._student_bytes", lambda model, training: 300 << 20)
    text = refused(place)
    assert text.startswith("runs.student_mb: 64 cannot hold a student of task.files.lab.protocol (full: 300 MiB)")
    assert "expected at least 302" in text
    assert check_files(config(place, "runs.student_mb=302"))


@pytest.mark.parametrize("trainable", ["full", "lora:4", "top:1", "head"])
def test_the_size_of_a_student_is_foretold(place: Path, tmp_path: Path, trainable: str) -> None:
    domain = file_domain(config(place, f"task.files.lab.protocol={{trainable: '{trainable}'}}"))
    base = LabelModel.load(place / "strong", "pair")
    model = base.copy()
    tokens = base.tokenize(domain.task.test.items).take(range(32))
    finetune(model, tokens, [0.0, 1.0] * 16, TrainConfig(epochs=1, lr=0.01, trainable=trainable))
    path = tmp_path / "student.safetensors"
    Student.from_model(model, base).save(path)
    with path.open("rb") as file:
        real = path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    foretold = _student_bytes(_look(domain, "strong").model, domain.spec.student)
    assert 0 <= foretold - real <= 4 * 2 * base.width, "label rows of its own are counted, needed or not"


def test_labels_that_sandboxes_could_read_are_refused(place: Path, tmp_path: Path) -> None:
    inside = tmp_path / "cache" / "models" / "lab"
    shutil.copytree(place / "lab", inside)
    with pytest.raises(ConfigError, match=r"holds labels and lies in .*cache, which sandboxes see; move it elsewhere"):
        check_files(config(place, f"task.files.lab.path={json.dumps(str(inside))}", cache=tmp_path / "cache"))


def test_a_broken_row_and_a_missing_split_are_named_in_the_field_of_the_path(place: Path, tmp_path: Path) -> None:
    rows: dict[str, Any] = rows_of(DOMAIN)
    del rows["test"][2]["label"]
    path = write_rows(tmp_path / "lab", rows)
    text = refused(place, f"task.files.lab.path={json.dumps(str(path))}")
    assert text.startswith(f"task.files.lab.path: {path}/test.jsonl:3: test row without a label")
    (path / "test.jsonl").unlink()
    assert "has no test.jsonl" in refused(place, f"task.files.lab.path={json.dumps(str(path))}")


def test_labels_that_are_no_single_tokens_are_refused(place: Path, tmp_path: Path) -> None:
    source = tmp_path / "strong"
    shutil.copytree(place / "strong", source)
    replace(prompt_format(source, "pair"), labels=("first of them", "second of them")).save(source / "prompt.json")
    text = refused(place, f"task.files.lab.strong={json.dumps(str(source))}")
    assert text.startswith("task.files.lab.strong: label 'first of them' is not a single known token")


def test_weights_that_are_missing_are_refused(place: Path, tmp_path: Path) -> None:
    source = tmp_path / "weak"
    shutil.copytree(place / "weak", source)
    (source / "model.safetensors").unlink()
    text = refused(place, f"task.files.lab.weak={json.dumps(str(source))}")
    missing = f"task.files.lab.weak: model folder {source} has no model.safetensors"
    assert text.startswith(f"{missing}: expected a folder with config.json, model.safetensors and tokenizer.json")


def test_relative_places_become_absolute_and_hub_names_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    about = config(place, "task.files.lab={path: lab, weak: weak, strong: Qwen/Qwen3-4B-Base}").task.files["lab"]
    assert (about.path, about.weak) == (str(place / "lab"), str(place / "weak"))
    assert about.strong == "Qwen/Qwen3-4B-Base"
    assert row(file_domain(config(place)).task.test.items[0], 1)["label"] == "B"
