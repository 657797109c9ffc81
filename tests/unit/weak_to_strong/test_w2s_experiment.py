"""Whole experiments on tiny worlds: what is trained, what is shared, what is found again, what is refused."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cluster.training import Training
from gpu_pool.library import library_files
from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import MethodError, ModelError
from gpu_pool.weak_to_strong.experiment import (
    Event,
    Experiment,
    ExperimentError,
    MethodFile,
    ModelAt,
    Pretrained,
    Scores,
    sources,
    world_of,
)
from gpu_pool.weak_to_strong.experiment import experiment as experiments
from gpu_pool.weak_to_strong.methods import truth
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.presets import PRESETS
from gpu_pool.weak_to_strong.run import MethodRun, RunParams
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts
from gpu_pool.weak_to_strong.tasks.schema import Split, Task
from tests.unit.weak_to_strong.conftest import tiny_domain

QUICK = Training(epochs=1, lr=1e-3, trainable="full")


def tiny_task(domain: Domain) -> Task:
    label, unlabel, test = (Split(*domain.sample(n, 50 + n)) for n in (20, 40, 30))
    return Task("tiny", domain.kind, label, unlabel, test)


@pytest.fixture(scope="module")
def task(chat: Domain) -> Task:
    return tiny_task(chat)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, folder: Path, task: Task) -> tuple[Path, list[Event]]:
    """A cache in which one experiment has run, and its events."""
    torch.set_num_threads(1)
    root, events = tmp_path_factory.mktemp("cache"), list[Event]()
    run_all(build(root, folder, task, events))
    return root, events


def build(root: Path, folder: Path, task: Task, events: list[Event], **options: Any) -> Experiment:
    protocols = {"teacher": QUICK.model_copy(update={"members": 2}), "student": QUICK}
    models = ModelAt(folder), ModelAt(folder)
    return Experiment(task, *models, Artefacts(root), progress=events.append, **(protocols | options))


def run_all(experiment: Experiment) -> dict[str, Scores]:
    seeds = range(2)
    methods = [MethodFile.of("vanilla"), MethodFile.of("probe")]
    scores = [experiment.weak(seeds), experiment.ceiling(seeds), *(experiment.method(m, seeds) for m in methods)]
    return {one.name: one for one in scores}


def test_every_run_is_trained_once_and_scored_on_the_test_items(made: tuple[Path, list[Event]]) -> None:
    _, events = made
    runs = [(e.name, e.seed, e.cached) for e in events]
    assert runs == [(name, seed, False) for name in ("weak", "ceiling", "vanilla", "probe") for seed in (0, 1)]
    assert all(e.seconds > 0 and 0 <= e.accuracy <= 1 for e in events)


def test_a_second_run_trains_nothing_and_loads_no_model(
    made: tuple[Path, list[Event]], folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LabelModel, "load", refuse)
    again: list[Event] = []
    scores = run_all(build(made[0], folder, task, again))
    assert all(event.cached for event in again)
    assert [(e.name, e.accuracy, e.seconds) for e in again] == [(e.name, e.accuracy, e.seconds) for e in made[1]]
    labels = task.test.labels
    assert labels is not None
    for one in scores.values():
        assert one.hits.shape == one.probs.shape == (2, len(task.test))
        assert np.array_equal(one.hits, (one.probs > 0.5) == (labels == 1))


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"teacher": QUICK.model_copy(update={"lr": 2e-3})}, {"weak", "vanilla", "probe"}),
        ({"student": QUICK.model_copy(update={"lr": 2e-3})}, {"ceiling", "vanilla", "probe"}),
        ({"student": QUICK.model_copy(update={"trainable": "head"})}, {"ceiling", "vanilla", "probe"}),
    ],
)
def test_a_changed_protocol_runs_what_depends_on_it_and_nothing_else(
    made: tuple[Path, list[Event]], folder: Path, task: Task, change: dict[str, Training], trained: set[str]
) -> None:
    events: list[Event] = []
    run_all(build(made[0], folder, task, events, **change))
    assert {e.name for e in events if not e.cached} == trained


def test_other_items_another_model_or_another_source_are_other_runs(
    made: tuple[Path, list[Event]], folder: Path, task: Task, chat: Domain, tmp_path: Path
) -> None:
    events: list[Event] = []
    build(made[0], folder, dataclasses.replace(task, test=Split(*chat.sample(30, 99))), events).weak([0])
    (tmp_path / "other").mkdir()
    for file in folder.iterdir():
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    copied = ModelAt(tmp_path / "other")
    assert copied.key() == ModelAt(folder).key()
    (tmp_path / "other" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b"\0")
    assert ModelAt(tmp_path / "other").key() != copied.key()
    assert len({ModelAt(folder, *length, chat=chat).key() for length in ((), (16,)) for chat in (False, True)}) == 4
    same = MethodFile("vanilla", MethodFile.of("vanilla").source + "# another\n")
    build(made[0], folder, task, events).method(same, [0])
    assert [e.cached for e in events] == [False, False]


def test_hidden_states_are_computed_once_for_all_seeds_and_methods(
    made: tuple[Path, list[Event]], folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("hidden states were computed again")

    # `probe` of the first experiment made them.
    monkeypatch.setattr(LabelModel, "hidden", refuse)
    experiment = build(made[0], folder, task, [], teacher=QUICK.model_copy(update={"lr": 3e-3}))
    source = "def train(run):\n    assert run.hidden.shape[0] == len(run.items)\n    return run.student(run.strong())\n"
    assert experiment.method(MethodFile("states", source), [0]).hits.shape == (1, len(task.test))


def test_a_method_sees_its_own_teachers_labels_and_no_truth(
    made: tuple[Path, list[Event]], folder: Path, task: Task, tmp_path: Path
) -> None:
    experiment = build(made[0], folder, task, [])
    source = (
        "import numpy as np\nfrom pathlib import Path\nimport neighbour\n\ndef train(run):\n"
        "    np.save(Path(neighbour.HERE) / f'{run.seed}.npy', run.weak)\n"
        "    assert run.protocol.epochs == 1\n    return run.student(run.strong())\n"
    )
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "neighbour.py").write_text(f"HERE = {str(tmp_path)!r}\n")
    experiment.method(MethodFile.of(tmp_path / "mine.py"), [0, 1])
    for seed in (0, 1):
        assert np.array_equal(np.load(tmp_path / f"{seed}.npy"), experiment.weak_labels(seed))
    assert not np.array_equal(experiment.weak_labels(0), experiment.weak_labels(1))


def test_what_a_method_imports_is_forgotten(
    made: tuple[Path, list[Event]], folder: Path, task: Task, tmp_path: Path
) -> None:
    experiment = build(made[0], folder, task, [])
    source = "import helper\n\ndef train(run):\n    assert helper.NUMBER == {n}\n    return run.student(run.strong())\n"
    for number in (1, 2):
        own = tmp_path / str(number)
        own.mkdir()
        (own / "method.py").write_text(source.format(n=number))
        (own / "helper.py").write_text(f"NUMBER = {number}\n")
        method = MethodFile.of(own)
        assert method.name == str(number)
        experiment.method(method, [0])
    before = MethodFile.of(tmp_path / "1").digest()
    (tmp_path / "1" / "helper.py").write_text("NUMBER = 3\n")
    assert MethodFile.of(tmp_path / "1").digest() != before


def test_packages_beside_a_method_are_part_of_it_and_are_forgotten_too(
    made: tuple[Path, list[Event]], folder: Path, task: Task, tmp_path: Path
) -> None:
    experiment = build(made[0], folder, task, [])
    for package in ("own/deep", "bare"):
        (tmp_path / package).mkdir(parents=True)
    (tmp_path / "own" / "__init__.py").touch()
    (tmp_path / "mine.py").write_text(
        "from own.deep.part import NUMBER\nfrom bare.part import OTHER\n\n"
        "def train(run):\n    return run.student(run.fit(run.weak * 0 + NUMBER * OTHER))\n"
    )
    for part in ("own/deep", "bare"):
        (tmp_path / part / "part.py").write_text("NUMBER = OTHER = 1.0\n")
    ones = experiment.method(MethodFile.of(tmp_path / "mine.py"), [0])
    for part in ("own/deep", "bare"):
        before = MethodFile.of(tmp_path / "mine.py").digest()
        (tmp_path / part / "part.py").write_text("NUMBER = OTHER = 0.0\n")
        assert MethodFile.of(tmp_path / "mine.py").digest() != before
    (tmp_path / ".venv").mkdir()
    before = MethodFile.of(tmp_path / "mine.py").digest()
    (tmp_path / ".venv" / "library.py").write_text("this is not the method's\n")
    assert MethodFile.of(tmp_path / "mine.py").digest() == before
    zeros = experiment.method(MethodFile.of(tmp_path / "mine.py"), [0])
    assert zeros.probs.mean() < ones.probs.mean() - 0.01
    assert not {"own", "own.deep", "own.deep.part", "bare", "bare.part"} & set(sys.modules)


def test_seeds_are_stacked_and_give_what_each_gives_alone(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[int] = []
    train = truth.train_seeds_on_truth

    def counted(*args: Any) -> Any:
        stacks.append(len(args[3]))
        return train(*args)

    monkeypatch.setattr(experiments, "train_seeds_on_truth", counted)
    together, alone = (build(tmp_path / name, folder, task, []) for name in ("together", "alone"))
    whole = together.weak(range(6))
    assert stacks == [4, 2], "eight models of this width, two members each"
    assert np.allclose(whole.probs[5], alone.weak([5]).probs[0], atol=1e-4)
    assert np.allclose(together.weak_labels(5), alone.weak_labels(5), atol=1e-4)
    assert np.allclose(together.ceiling(range(2)).probs[1], alone.ceiling([1]).probs[0], atol=1e-4)
    assert stacks == [4, 2, 1, 2, 1]


def test_test_items_are_read_once_for_all_seeds_and_methods(
    folder: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized, read = list[int](), list[int]()
    tokenize, states = LabelModel.tokenize, LabelModel.states

    def watched_tokenize(model: LabelModel, items: Any, **given: Any) -> Any:
        tokenized.append(len(items))
        return tokenize(model, items, **given)

    def watched_states(model: LabelModel, tokens: Any, *given: Any) -> Any:
        read.append(len(tokens))
        return states(model, tokens, *given)

    monkeypatch.setattr(LabelModel, "tokenize", watched_tokenize)
    monkeypatch.setattr(LabelModel, "states", watched_states)
    experiment = build(tmp_path, folder, task, [])
    seeds = range(2)
    methods = [MethodFile.of(name) for name in ("vanilla", "probe", "principal")]
    scores = [experiment.weak(seeds), experiment.ceiling(seeds), *(experiment.method(m, seeds) for m in methods)]
    assert sorted(tokenized) == [20, 30, 30, 40, 40, 40]  # by each model each split it reads; 40 once more for states
    assert sorted(read) == [30, 40]
    labels = experiment.weak_labels(0)
    run = MethodRun(task.train_unlabel.items, labels, LabelModel.load(folder, "pair"), RunParams.of(QUICK))
    with MethodFile.of("probe").imported() as train:
        assert np.allclose(train(run).predict(task.test.items)[:, 1], scores[3].probs[0], atol=1e-6)


def test_cut_texts_are_counted_by_split_or_refused_before_anything_is_trained(
    folder: Path, task: Task, tmp_path: Path
) -> None:
    plain = LabelModel.load(folder, "pair")
    lengths = {name: plain.tokenize(split.items).lengths for name, split in task.splits.items()}
    limit = int(np.median(lengths["test"])) - 1
    cutting, refusing = ModelAt(folder, limit), ModelAt(folder, limit, over_long="refuse")
    assert cutting.key() != refusing.key()
    events: list[Event] = []
    cut, refuse = (
        Experiment(task, one, one, Artefacts(tmp_path), teacher=QUICK, student=QUICK, progress=events.append)
        for one in (cutting, refusing)
    )
    expected = {name: int((known > limit).sum()) for name, known in lengths.items()}
    assert min(expected.values()) > 0
    assert cut.weak([0]).cut == expected
    for scores in (cut.ceiling([0]), cut.method(MethodFile.of("probe"), [0]), cut.ceiling([0])):
        assert scores.cut == {name: expected[name] for name in ("train_unlabel", "test")}
    done = len(events)
    for run in (refuse.weak, refuse.ceiling):
        with pytest.raises(ModelError, match=f"longer than {limit} tokens"):
            run([0])
    assert len(events) == done


def test_an_error_names_its_method_and_seed(folder: Path, task: Task, tmp_path: Path) -> None:
    experiment = build(tmp_path, folder, task, [])
    (tmp_path / "helper.py").write_text("def half(x):\n    return x / 0\n")
    (tmp_path / "bad.py").write_text("import helper\n\ndef train(run):\n    return helper.half(1)\n")
    with pytest.raises(MethodError, match=r"method 'bad', seed 1 raised ZeroDivisionError: .* \(helper.py, line 2\)"):
        experiment.method(MethodFile.of(tmp_path / "bad.py"), [1])
    (tmp_path / "bad.py").write_text("import no_such_module\n")
    with pytest.raises(MethodError, match="method 'bad', seed 0 raised ModuleNotFoundError"):
        experiment.method(MethodFile.of(tmp_path / "bad.py"), [0])
    source = "def train(run):\n    return run.student(run.fit(run.weak, run.config(trainable='top:9')))\n"
    with pytest.raises(ModelError, match=r"method 'deep', seed 0: .*top:9"):
        experiment.method(MethodFile("deep", source), [0])


def test_a_file_of_a_published_methods_name_is_shown_with_its_folder(tmp_path: Path) -> None:
    for name in ("vanilla", "weak", "mine"):
        (tmp_path / f"{name}.py").write_text("def train(run):\n    return run.student(run.strong())\n")
    shown = [MethodFile.of(tmp_path / f"{name}.py").name for name in ("vanilla", "weak", "mine")]
    assert shown == [f"{tmp_path.name}/vanilla.py", f"{tmp_path.name}/weak.py", "mine"]
    assert MethodFile.of("vanilla").name == "vanilla"


def test_generated_models_are_pretrained_once_and_other_sizes_are_other_models(tmp_path: Path) -> None:
    domain, artefacts = tiny_domain("math"), Artefacts(tmp_path)
    weak, strong = (Pretrained(domain, "math:tiny:0", which, artefacts) for which in ("weak", "strong"))
    first = weak.folder()
    weights = (first / "model.safetensors").stat().st_mtime_ns
    assert Pretrained(domain, "math:tiny:0", "weak", Artefacts(tmp_path)).folder() == first
    assert (first / "model.safetensors").stat().st_mtime_ns == weights
    shape = dataclasses.replace(domain.spec.strong.shape, hidden=32)
    wide = Pretrained(domain, "math:tiny:0", "strong", artefacts, dataclasses.replace(domain.spec.strong, shape=shape))
    assert len({source.key() for source in (strong, wide, Pretrained(domain, "math:tiny:1", "strong", artefacts))}) == 3
    assert (strong.load("binary", None, "cpu").width, wide.load("binary", None, "cpu").width) == (16, 32)
    task = tiny_task(domain)
    experiment = Experiment(task, weak, strong, artefacts, teacher=QUICK, student=QUICK)
    assert experiment.method(MethodFile.of("vanilla"), [0]).hits.shape == (1, len(task.test))


def test_a_world_has_one_name_however_it_is_written(chat: Domain) -> None:
    names = {world_of(chat, spec) for spec in ("generated:chat", "generated:chat:quick", "generated:chat:quick:0")}
    assert names == {"chat:quick:0"}


def test_without_truth_there_is_no_ceiling_but_weak_and_methods(folder: Path, task: Task, tmp_path: Path) -> None:
    blind = dataclasses.replace(task, train_unlabel=Split(task.train_unlabel.items))
    experiment = build(tmp_path, folder, blind, [])
    for ask in (experiment.ceiling_truth, lambda: experiment.ceiling([0])):
        with pytest.raises(ExperimentError, match=r"task tiny: train_unlabel has no labels.*give every item of it a"):
            ask()
    assert experiment.method(MethodFile.of("vanilla"), [0]).hits.shape == (1, len(task.test))


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_published_model_is_asked_and_trained_as_published(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, asked = PRESETS[name], dict[str, Any]()
    monkeypatch.setattr(sources, "resolve", lambda _: folder)
    monkeypatch.setattr(LabelModel, "load", lambda *_, **given: asked.update(given))
    ModelAt(name).load("binary", None, "cpu")
    assert asked["max_length"] == preset.max_length
    assert asked["fmt"] == (preset.format("binary") if preset.chat else None)


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_seeds_are_checked(folder: Path, task: Task, tmp_path: Path, seeds: list[int]) -> None:
    with pytest.raises(ExperimentError, match="seeds are"):
        build(tmp_path, folder, task, []).weak(seeds)


def test_what_is_wrong_is_named(folder: Path, task: Task, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"nothing_like_it.*no such file, and not one of vanilla"):
        MethodFile.of("nothing_like_it")
    (tmp_path / "mine.py").write_text("def train(run):\n    return 3\n")
    with pytest.raises(MethodError, match="strength"):
        MethodFile.of(tmp_path / "mine.py", strength=1)
    for wrong in ({"lr": -1.0}, {"trainable": "half"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Training.model_validate(wrong)
    experiment = build(tmp_path, folder, task, [])
    with pytest.raises(MethodError, match=r"'mine'.*returned int"):
        experiment.method(MethodFile.of(tmp_path / "mine.py"), [0])
    (tmp_path / "mine.py").write_text("def train(run)\n")
    with pytest.raises(MethodError, match=r"'mine'.*line 1"):
        experiment.method(MethodFile.of(tmp_path / "mine.py"), [0])
    with pytest.raises(ModelError, match="no such model folder"):
        Experiment(task, ModelAt(tmp_path / "none"), ModelAt(folder), Artefacts(tmp_path)).weak([0])


def test_a_failed_run_leaves_nothing_behind_and_can_be_run_again(folder: Path, task: Task, tmp_path: Path) -> None:
    experiment = build(tmp_path, folder, task, [])
    flag = tmp_path / "ready"
    source = (
        f"from pathlib import Path\n\ndef train(run):\n    if not Path({str(flag)!r}).exists():\n"
        "        raise ValueError('not yet')\n    return run.student(run.strong())\n"
    )
    with pytest.raises(MethodError, match=r"method 'late', seed 0 raised ValueError: not yet \(line 5\)"):
        experiment.method(MethodFile("late", source), [0])
    flag.touch()
    assert experiment.method(MethodFile("late", source), [0]).hits.shape == (1, len(task.test))


def test_the_package_stays_outside_the_sandbox() -> None:
    assert not [name for name in library_files() if "experiment" in name]
    assert experiments.Experiment.__module__.startswith("gpu_pool.weak_to_strong.experiment")
