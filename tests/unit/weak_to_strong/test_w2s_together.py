"""Seeds of a method that are run together: each gives what it gives alone, and nothing is left behind."""

from __future__ import annotations

import random
import signal
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpu_pool.weak_to_strong import losses, trainer
from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import MethodError, TrainingError
from gpu_pool.weak_to_strong.experiment import Event, Experiment, MethodFile, ModelAt, Protocol, together
from gpu_pool.weak_to_strong.experiment import experiment as experiments
from gpu_pool.weak_to_strong.experiment.together import Trained, most_at_once, train_alone, train_seeds
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.run import MethodRun, RunParams
from gpu_pool.weak_to_strong.streams import global_streams
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts
from gpu_pool.weak_to_strong.tasks.schema import Split, Task
from gpu_pool.weak_to_strong.tokens import TokenTable

SEEDS = (0, 1, 2)
VANILLA = "def train(run):\n    return run.student(run.fit(run.weak))\n"


class Said(list[tuple[str, dict[str, float]]]):
    """What a run reported."""

    def __call__(self, message: str, **numbers: float) -> None:
        self.append((message, numbers))

    def of(self, message: str) -> list[dict[str, float]]:
        return [numbers for own, numbers in self if own == message]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs each training did at once, as they come."""
    seen: list[int] = []
    train = trainer._train

    def counted(jobs: Sequence[trainer.Job], *rest: Any) -> Any:
        seen.append(len(jobs))
        return train(jobs, *rest)

    monkeypatch.setattr(trainer, "_train", counted)
    return seen


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that method files share by `from witness import seen`."""
    module = types.ModuleType("witness")
    seen: list[Any] = []
    vars(module)["seen"] = seen
    monkeypatch.setitem(sys.modules, "witness", module)
    return seen


class Bench:
    """Runs of one model on forty items, each seed with weak labels of its own."""

    def __init__(self, model: LabelModel, chat: Domain) -> None:
        self.model = model
        self.items, self._truth = chat.sample(40, 1)

    def run(self, seed: int, **params: Any) -> MethodRun:
        rng = np.random.default_rng(100 + seed)
        members = 0.2 + 0.6 * np.where(rng.random((40, 3)) < 0.3, 1 - self._truth[:, None], self._truth[:, None])
        members += rng.uniform(-0.15, 0.15, members.shape)
        settings = RunParams(seed=seed, epochs=1, lr=1e-3, batch=8).model_copy(update=params)
        return MethodRun(self.items, members.mean(1), self.model, settings, Said(), members)

    def together(self, method: MethodFile, **params: Any) -> tuple[list[MethodRun], list[Trained]]:
        runs = [self.run(seed, **params) for seed in SEEDS]
        with method.imported() as train:
            ended = dict(train_seeds(train, runs, lambda: 0.0))
        return runs, [ended[number] for number in range(len(runs))]

    def alone(self, method: MethodFile, **params: Any) -> tuple[list[MethodRun], list[Trained]]:
        runs = [self.run(seed, **params) for seed in SEEDS]
        with method.imported() as train:
            return runs, [train_alone(train, run, lambda: 0.0) for run in runs]

    def probs(self, trained: Trained) -> Any:
        if isinstance(trained.result, Exception):
            raise trained.result
        return trained.result.predict(self.items)[:, 1]


@pytest.fixture(scope="module")
def bench(model: LabelModel, chat: Domain) -> Bench:
    return Bench(model, chat)


def said(runs: Sequence[MethodRun], message: str) -> list[list[dict[str, float]]]:
    logs: list[Any] = [run._log for run in runs]
    return [log.of(message) for log in logs]


@pytest.mark.parametrize(
    ("name", "given", "params", "stacks"),
    [
        ("vanilla", {}, {}, [3]),
        ("vanilla", {}, {"trainable": "lora:4"}, [3]),
        ("vanilla", {}, {"trainable": "head"}, [3]),
        ("logconf", {}, {}, [3]),
        ("frozen", {}, {}, [3]),
        ("confident", {}, {}, [3]),
        ("cross_fit", {"helper_epochs": 1}, {}, [6, 3]),
        ("bagging", {"members": 2, "helper_epochs": 1}, {}, None),
        ("agreement", {"helper_epochs": 1}, {}, None),
        ("teacher_ensemble", {}, {}, None),
        ("born_again", {"rounds": 2, "helper_epochs": 1}, {}, [3, 3, 3]),
        ("bootstrap", {"helper_epochs": 1}, {}, [3, 3]),
        ("co_teaching", {}, {"epochs": 2}, [3, 3]),
        ("mdl_curriculum", {"easy_epochs": 1, "all_epochs": 1}, {}, None),
        ("critic", {"samples": 2, "tokens": 3, "judge_epochs": 1}, {}, [3] * 5),
        ("evolution_lora", {"generations": 2, "population": 4}, {}, [3]),
        ("probe", {}, {}, []),
        ("ccs", {}, {}, [3]),
    ],
)
def test_a_seed_gives_what_it_gives_alone(
    bench: Bench,
    sizes: list[int],
    name: str,
    given: dict[str, Any],
    params: dict[str, Any],
    stacks: list[int] | None,
) -> None:
    method = MethodFile.of(name, **given)
    runs, joint = bench.together(method, **params)
    if stacks is not None:
        assert sizes == stacks
    one_by_one, single = bench.alone(method, **params)
    for mine, other in zip(joint, single, strict=True):
        assert np.allclose(bench.probs(mine), bench.probs(other), atol=2e-4)
        assert mine.seconds > 0
    # What a training reports is the same, but for rounding and its seconds.
    for reports, others in zip(said(runs, "trained"), said(one_by_one, "trained"), strict=True):
        assert [(r["items"], r["steps"]) for r in reports] == [(r["items"], r["steps"]) for r in others]
        assert [r["loss"] for r in reports] == pytest.approx([r["loss"] for r in others], rel=1e-3)
    assert not np.allclose(bench.probs(joint[0]), bench.probs(joint[1]), atol=1e-3), "seeds differ"


def test_what_differs_is_trained_by_its_own_seed(bench: Bench, sizes: list[int]) -> None:
    source = (
        "def train(run):\n    few = list(range(8 if run.seed == 1 else 40))\n"
        "    return run.student(run.fit(run.weak[few], indices=few))\n"
    )
    bench.together(MethodFile("few", source))
    assert sizes == [2, 1]


def test_equal_settings_are_equal_losses_and_each_an_own_object() -> None:
    assert losses.logconf(0.5) == losses.logconf(strength=0.5) == losses.logconf()
    assert losses.gce(0.5) != losses.gce(0.7)
    assert losses.product() == losses.product()
    assert losses.reverse_kl(0.1) == losses.reverse_kl(0.1)
    assert losses.separable(losses.logconf(0.5)) is not losses.logconf(0.5)
    assert not losses.is_separable(losses.logconf())
    assert all(map(losses.is_separable, (losses.product(), losses.gce(), losses.reverse_kl())))


def test_who_has_nothing_to_stack_is_done_before_the_next_begins(bench: Bench) -> None:
    began: list[int] = []

    def train(run: MethodRun) -> Student:
        began.append(run.seed)
        return run.student(run.base)

    coming = train_seeds(train, [bench.run(seed) for seed in SEEDS], lambda: 0.0)
    number, _ = next(coming)
    assert (number, began) == (0, [0])
    coming.close()
    assert began == [0]


def test_one_thread_runs_at_a_time_and_in_order(bench: Bench, witness: list[Any]) -> None:
    source = (
        "import threading, time\nfrom witness import seen\n\ndef note(run, what):\n"
        "    seen.append((run.seed, what, 'in'))\n    time.sleep(0.02)\n    seen.append((run.seed, what, 'out'))\n\n"
        "def train(run):\n    note(run, 'before')\n    model = run.fit(run.weak)\n    note(run, 'after')\n"
        "    return run.student(model)\n"
    )
    bench.together(MethodFile("notes", source))
    stages = [(seed, what) for what in ("before", "after") for seed in SEEDS]
    assert witness == [(*stage, end) for stage in stages for end in ("in", "out")]


def test_threads_have_the_callers_settings(bench: Bench, witness: list[Any]) -> None:
    torch.set_num_threads(2)
    source = (
        "import numpy as np, torch\nfrom witness import seen\n\ndef train(run):\n"
        "    seen.append((torch.get_num_threads(), np.geterr()['over'], torch.is_grad_enabled()))\n"
    ) + VANILLA.partition("\n")[2]
    with np.errstate(over="raise"):
        bench.together(MethodFile("settings", source))
    assert witness == [(2, "raise", True)] * 3


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("targets = run.weak * np.nan if run.seed == 1 else run.weak", "targets hold a value that is not finite"),
        ("weights = np.full(40, 3e38) if run.seed == 1 else weights", r"loss is inf at step 0"),
    ],
)
def test_a_failing_stack_fails_for_its_culprit_alone(bench: Bench, sizes: list[int], broken: str, says: str) -> None:
    source = (
        "import numpy as np\n\ndef train(run):\n    targets, weights = run.weak, np.ones(40)\n"
        f"    {broken}\n    return run.student(run.fit(targets, weights=weights))\n"
    )
    joint = bench.together(MethodFile("broken", source))[1]
    assert sizes == [3, 1, 1, 1]
    with pytest.raises(TrainingError, match=says):
        bench.probs(joint[1])
    single = bench.alone(MethodFile("broken", source))[1]
    for seed in (0, 2):
        assert np.array_equal(bench.probs(joint[seed]), bench.probs(single[seed]))


def test_an_error_is_its_seeds_own(bench: Bench) -> None:
    source = (
        "def train(run):\n    model = run.fit(run.weak)\n    if run.seed == 0:\n        raise ValueError('no')\n"
        "    return run.student(model) if run.seed == 1 else 7\n"
    )
    results = [trained.result for trained in bench.together(MethodFile("own", source))[1]]
    assert isinstance(results[0], ValueError)
    assert isinstance(results[1], Student)
    assert isinstance(results[2], MethodError)


STUBBORN = (
    "from witness import seen\n\ndef train(run):\n    try:\n        return run.student(run.fit(run.weak))\n"
    "    except Exception:\n        seen.append('caught')\n    finally:\n        seen.append(('ended', run.seed))\n"
)


def test_an_interrupt_ends_what_waits(bench: Bench, witness: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(together, "finetune_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.together(MethodFile("stubborn", STUBBORN))
    assert sorted(witness) == [("ended", seed) for seed in SEEDS]


def test_an_interrupt_ends_what_runs(bench: Bench, witness: list[Any]) -> None:
    source = (
        "import signal, threading, time\n" + STUBBORN + "\nwaiting = train\n\ndef train(run):\n"
        "    if run.seed < 2:\n        return waiting(run)\n"
        "    try:\n        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)\n"
        "        while True:\n            time.sleep(0.01)\n            run.fit(run.weak)\n"
        "    finally:\n        seen.append(('ended', 2))\n"
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    path = list(sys.path)
    with pytest.raises(KeyboardInterrupt):
        bench.together(MethodFile("endless", source))
    assert sorted(witness) == [("ended", seed) for seed in SEEDS]
    assert sys.path == path


def test_an_exit_of_one_seed_ends_all(bench: Bench, witness: list[Any]) -> None:
    source = STUBBORN + "\nwaiting = train\n\ndef train(run):\n    return waiting(run) if run.seed < 2 else exit(3)\n"
    with pytest.raises(SystemExit, match="3"):
        bench.together(MethodFile("exits", source))
    assert sorted(witness) == [("ended", seed) for seed in (0, 1)]


def test_memory_bounds_how_many_run_at_once(model: LabelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (TokenTable.of([np.zeros(length, np.int32)] * 4) for length in (10, 1000))
    assert most_at_once(model, short) == 8
    held = 8 * sum(p.nbytes for p in model.parameters())
    monkeypatch.setattr(together, "MEMORY", 2 * (held + 40 * model.width * 4))
    assert (most_at_once(model, short), most_at_once(model, long)) == (2, 1)


# whole experiments

QUICK = Protocol(epochs=1, lr=1e-3)


@pytest.fixture(scope="module")
def task(chat: Domain) -> Task:
    label, unlabel, test = (Split(*chat.sample(n, 50 + n)) for n in (20, 40, 30))
    return Task("tiny", chat.kind, label, unlabel, test)


def build(root: Path, folder: Path, task: Task, events: list[Event], student: Protocol = QUICK) -> Experiment:
    models = ModelAt(folder), ModelAt(folder)
    return Experiment(task, *models, Artefacts(root), teacher=QUICK, student=student, progress=events.append)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The seeds of each `train_seeds`."""
    seen: list[list[int]] = []

    def counted(train: Any, runs: Sequence[MethodRun], aside: Any) -> Any:
        seen.append([run.seed for run in runs])
        return train_seeds(train, runs, aside)

    monkeypatch.setattr(experiments, "train_seeds", counted)
    return seen


def test_an_experiment_runs_what_is_missing_together(
    folder: Path, task: Task, tmp_path: Path, calls: list[list[int]], sizes: list[int]
) -> None:
    events: list[Event] = []
    experiment, method = build(tmp_path / "joint", folder, task, events), MethodFile.of("vanilla")
    experiment.weak(range(5))
    sizes.clear()
    third = experiment.method(method, [3])
    scores = experiment.method(method, range(5))
    assert calls == [[0, 1, 2, 4]]
    assert sizes == [1, 4]
    assert [(e.seed, e.cached) for e in events if e.name == "vanilla"] == [
        (3, False), (0, False), (1, False), (2, False), (3, True), (4, False),
    ]  # fmt: skip
    assert np.array_equal(scores.probs[3], third.probs[0])
    assert (scores.seconds > 0).all()
    alone = build(tmp_path / "alone", folder, task, [])
    single = [alone.method(method, [seed]) for seed in range(5)]
    assert np.allclose(scores.probs, np.concatenate([one.probs for one in single]), atol=1e-4)


def test_seeds_run_in_blocks_and_with_a_time_limit_alone(
    folder: Path, task: Task, tmp_path: Path, calls: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "most_at_once", lambda *_: 2)
    experiment = build(tmp_path, folder, task, [])
    experiment.method(MethodFile.of("vanilla"), range(5))
    assert calls == [[0, 1], [2, 3]]
    limited = build(tmp_path, folder, task, [], QUICK.changed(seconds=60.0))
    limited.method(MethodFile.of("vanilla"), range(2))
    assert len(calls) == 2


def test_a_file_of_somebodys_own_runs_seed_by_seed_with_streams_and_modules_of_each(
    folder: Path, task: Task, tmp_path: Path, witness: list[Any], calls: list[list[int]], sizes: list[int]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "counter.py").write_text("SEEN = []\n")
    (own / "method.py").write_text(
        "import random\n\nimport numpy as np\nimport torch\n\nimport counter\nfrom witness import seen\n\n\n"
        "def train(run):\n    counter.SEEN.append(run.seed)\n"
        "    seen.append((counter.SEEN, float(torch.rand(1)), np.random.rand(), random.random()))\n"
        "    return run.student(run.fit(run.weak))\n"
    )
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    experiment = build(tmp_path, folder, task, [])
    experiment.weak(SEEDS)
    sizes.clear()
    experiment.method(MethodFile.of(own), SEEDS)
    assert (calls, sizes) == ([], [1, 1, 1])
    assert [seen for seen, *_ in witness] == [[seed] for seed in SEEDS]
    assert len({drawn for _, *three in witness for drawn in three}) == 9
    for seed, (_, *drawn) in zip(SEEDS, witness, strict=True):
        with global_streams(seed):
            assert drawn == [float(torch.rand(1)), np.random.rand(), random.random()]
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_what_was_done_before_an_error_is_kept(folder: Path, task: Task, tmp_path: Path) -> None:
    events: list[Event] = []
    experiment = build(tmp_path, folder, task, events)
    source = (
        "def train(run):\n    model = run.fit(run.weak)\n    if run.seed in (1, 2):\n        1 / 0\n"
        "    return run.student(model)\n"
    )
    for method in (MethodFile("some", source), MethodFile("joint", source, published=True)):
        events.clear()
        named = rf"method '{method.name}', seed 1 raised ZeroDivisionError: .* \(line 4\)"
        with pytest.raises(MethodError, match=named):
            experiment.method(method, range(4))
        assert [(e.seed, e.cached) for e in events] == [(0, method.published)]
        with pytest.raises(MethodError, match="seed 2 raised"):
            experiment.method(method, [0, 2, 1])
