"""A whole weak-to-strong experiment: teachers, ceilings and methods over seeds, scored on the same test items.

    artefacts = Artefacts(Path("~/.cache/aar/w2s").expanduser())
    experiment = Experiment.generated("generated:math", artefacts)
    weak, ceiling = experiment.weak(range(5)), experiment.ceiling(range(5))
    vanilla = experiment.method(MethodFile.of("vanilla"), range(5))
    pgr(vanilla.accuracy, weak.accuracy, ceiling.accuracy)

Promises: seed s of a method learns from the labels of teacher s; the data are the same for all seeds, so seeds
differ in training alone, as in the published protocol; no method sees a label; whatever was computed once for the same
content, seed, protocol and code is read and not computed again. Teachers and ceilings of several seeds are trained as
one stack where that is faster, with the results of one by one, within rounding, which grows as training goes on: a
teacher depends a little on the seeds that were asked for with it first. A method runs seed by seed. The global random
streams of torch, numpy and `random` start from the seed in a method, as in a counted run, and are left as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.training import Training
from gpu_pool.weak_to_strong.errors import MethodError, W2SError
from gpu_pool.weak_to_strong.experiment.methods import MethodFile
from gpu_pool.weak_to_strong.experiment.shared import LIBRARY, MODEL_CODE, Shared, SharedRun
from gpu_pool.weak_to_strong.experiment.sources import ModelSource, Pretrained, world_of
from gpu_pool.weak_to_strong.methods.truth import seeds_at_once, train_seeds_on_truth
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel
from gpu_pool.weak_to_strong.rng import global_streams
from gpu_pool.weak_to_strong.run import RunParams
from gpu_pool.weak_to_strong.student import Inputs, Student
from gpu_pool.weak_to_strong.tasks import generated_domain, load_task
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts, code_version
from gpu_pool.weak_to_strong.tasks.schema import SPLITS, Split, Task
from gpu_pool.weak_to_strong.tokens import TokenTable

Hits = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[Any]]
_TRAIN_CODE = (
    *MODEL_CODE,
    *(f"{LIBRARY}.{name}" for name in ("losses", "trainer", "training", "student", "run", "methods.truth")),
)
_METHOD_CODE = (
    *_TRAIN_CODE,
    *(f"{LIBRARY}.{name}" for name in ("blocks", "generation", "rng")),
)


class ExperimentError(W2SError):
    """An experiment cannot be run as asked; says which split or setting is at fault."""


@dataclass(frozen=True, slots=True)
class Event:
    """One finished run: its name, its seed, its test accuracy, its seconds, and whether it was found and not run."""

    name: str
    seed: int
    accuracy: float
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Runs of one name: row i is seed `seeds[i]`; `probs` float32 (seeds, items) are P(label 1) of the test items.

    `hits` bool (seeds, items): whether the likelier label is right; `seconds` (seeds,) of training alone: without
    loading models, without scoring, without the tokens, states and priors that all runs share; a share of the stack, of
    teachers and ceilings that were trained as one. `cut`: texts that were cut to the model's length, by split.
    """

    name: str
    seeds: tuple[int, ...]
    probs: FloatArray
    hits: Hits
    seconds: npt.NDArray[np.float64]
    cut: Mapping[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Mean over seeds and items."""
        return float(self.hits.mean())


class Experiment:
    """One task, two models, one protocol for teachers and one for ceilings and students."""

    def __init__(
        self,
        task: Task,
        weak: ModelSource,
        strong: ModelSource,
        artefacts: Artefacts,
        *,
        teacher: Training | None = None,
        student: Training | None = None,
        device: str = "cpu",
        progress: Callable[[Event], None] | None = None,
    ) -> None:
        """`progress` hears of each run when it is done."""
        self.task = task
        self._weak = weak
        self._strong = strong
        self._artefacts = artefacts
        self._teacher = teacher or Training()
        self._student = student or Training()
        self._device = device
        self._progress = progress
        self._labels = _truth(task.test, f"task {task.name}: test has no labels")
        self._ahead: dict[tuple[str, int], Arrays] = {}  # trained with an earlier seed and not yet asked for

    @classmethod
    def generated(cls, spec: str, artefacts: Artefacts, *, seed: int = 0, **options: Any) -> Experiment:
        """The experiment of `generated:NAME[:SIZE[:WORLD_SEED]]` with the world's own models and protocols.

        `options` as for the constructor. Models are pretrained when they are first needed, in one to two minutes.
        """
        domain = generated_domain(spec)
        if domain is None:
            raise ExperimentError(f"{spec!r} is no generated task: expected generated:NAME[:SIZE[:WORLD_SEED]]")
        protocols: dict[str, Any] = {"teacher": domain.spec.teacher, "student": domain.spec.student}
        weak, strong = (Pretrained(domain, world_of(domain, spec), which, artefacts) for which in ("weak", "strong"))
        return cls(load_task(spec, seed), weak, strong, artefacts, **(protocols | options))

    def weak(self, seeds: Iterable[int]) -> Scores:
        """Teachers, trained on the truth of train_label. Row i is the teacher of row i of any method."""
        asked = _checked(seeds)
        return self._scores("weak", asked, lambda seed: self._teach(seed, asked))

    def ceiling(self, seeds: Iterable[int]) -> Scores:
        """The strong model trained on the truth of train_unlabel; ExperimentError when that has no labels."""
        asked, labels = _checked(seeds), self.ceiling_truth()
        return self._scores(
            "ceiling",
            asked,
            lambda seed: self._in_stacks(
                "ceiling", seed, asked, self._ceiling_key, lambda some: self._ceilings(some, labels)
            ),
        )

    def ceiling_truth(self) -> npt.NDArray[np.int8]:
        """The labels of train_unlabel, on which a ceiling is trained; ExperimentError when there are none.

        Ask before the first run of an experiment that is to end in a PGR.
        """
        return _truth(
            self.task.train_unlabel,
            f"task {self.task.name}: train_unlabel has no labels, and a ceiling is trained on them: PGR needs their "
            "truth, so give every item of it a label (no method sees them)",
        )

    def method(self, method: MethodFile, seeds: Iterable[int]) -> Scores:
        """Students of a method. An error of its own becomes one that names the method and the seed.

        An error of this library keeps its class, any other becomes a MethodError; so does a broken contract. It ends
        the call; the seeds that were done before it are kept.
        """
        asked, digest, code = _checked(seeds), method.digest(), code_version(*_METHOD_CODE)

        def student(seed: int) -> tuple[Arrays, bool]:
            key = self._student_key(seed) | {"method": digest, "code": code, "teacher": self._teacher_key(seed)}
            return self._once("student", key, lambda: self._train_method(method, seed, asked))

        return self._scores(method.name, asked, student)

    def weak_labels(self, seed: int) -> FloatArray:
        """The labels that methods of this seed learn from: teacher `seed`'s P(label 1) of train_unlabel, (n,)."""
        return self._teach(seed, (seed,))[0]["unlabelled"]

    def _train_method(self, method: MethodFile, seed: int, asked: Sequence[int]) -> Arrays:
        """What is kept of the method's run with `seed`; its error names the method and the seed."""
        shared = self._shared  # loads the model, which is not the run's time
        teacher, _ = self._teach(seed, asked)
        params = self._run_params(self._student, seed)
        run = SharedRun(shared, teacher["unlabelled"], params, members=teacher["members"])
        name, start, others = f"method {method.name!r}, seed {seed}", time.monotonic(), shared.seconds
        try:
            with global_streams(seed), method.imported() as train:
                student = train(run)
        except W2SError as error:
            raise type(error)(f"{name}: {error}") from error
        except Exception as error:  # whatever the method's own code raises
            raise MethodError(f"{name} raised {type(error).__name__}: {error}{method.place_of(error)}") from error
        seconds = time.monotonic() - start - (shared.seconds - others)
        return {
            "test": student.predict(shared.test)[:, 1],
            "seconds": np.array([seconds]),
            "cut": _cut(shared.tokens, shared.test.tokens),
        }

    def _teach(self, seed: int, asked: Sequence[int]) -> tuple[Arrays, bool]:
        """What the teacher of `seed` says; `asked` are all seeds that are wanted now."""
        return self._in_stacks("weak", seed, asked, self._teacher_key, self._teachers)

    def _in_stacks(
        self,
        kind: str,
        seed: int,
        asked: Sequence[int],
        key_of: Callable[[int], dict[str, Any]],
        train: Callable[[Sequence[int]], dict[int, Arrays]],
    ) -> tuple[Arrays, bool]:
        """`_once` of `seed`; `train` may take others of `asked` with it: their results are kept for their turn."""

        def make() -> Arrays:
            if (kind, seed) not in self._ahead:
                there = [s for s in asked if (kind, s) in self._ahead or self._artefacts.has(kind, key_of(s))]
                trained = train([seed, *(s for s in asked if s != seed and s not in there)])
                self._ahead |= {(kind, other): arrays for other, arrays in trained.items()}
            return self._ahead.pop((kind, seed))

        return self._once(kind, key_of(seed), make)

    def _teachers(self, wanted: Sequence[int]) -> dict[int, Arrays]:
        """Teachers of the first of `wanted`, of as many as are best trained at once."""
        task, read = self.task, self._weak_inputs
        labels = _truth(task.train_label, f"task {task.name}: train_label has no labels")
        cut = _cut(*(read[name].tokens for name in SPLITS))
        taught = self._on_truth(read["train_label"].base, read["train_label"].tokens, labels, self._teacher, wanted)
        out = {}
        for seed, (student, seconds) in taught.items():
            members = student.opinions(read["train_unlabel"])
            out[seed] = {
                "unlabelled": student.pool(members)[:, 1],
                "members": members.astype(np.float32),
                "test": student.predict(read["test"])[:, 1],
                "seconds": np.array([seconds]),
                "cut": cut,
            }
        return out

    def _ceilings(self, wanted: Sequence[int], labels: npt.NDArray[np.int8]) -> dict[int, Arrays]:
        """Ceilings of the first of `wanted`, of as many as are best trained at once."""
        shared = self._shared
        cut = _cut(shared.tokens, shared.test.tokens)
        taught = self._on_truth(shared.model, shared.tokens, labels, self._student, wanted)
        return {
            seed: {"test": student.predict(shared.test)[:, 1], "seconds": np.array([seconds]), "cut": cut}
            for seed, (student, seconds) in taught.items()
        }

    def _on_truth(
        self, model: LabelModel, tokens: TokenTable, labels: npt.ArrayLike, protocol: Training, wanted: Sequence[int]
    ) -> dict[int, tuple[Student, float]]:
        """Students on truth with the seconds of each, by seed."""
        seeds = wanted[: seeds_at_once(model, tokens, labels, self._run_params(protocol, 0))]
        start = time.monotonic()
        runs = [self._run_params(protocol, seed) for seed in seeds]
        students = train_seeds_on_truth(model, tokens, labels, runs)
        seconds = (time.monotonic() - start) / len(seeds)
        return {seed: (student, seconds) for seed, student in zip(seeds, students, strict=True)}

    def _run_params(self, protocol: Training, seed: int) -> RunParams:
        return RunParams.of(protocol, seed=seed, device=self._device)

    @cached_property
    def _weak_inputs(self) -> dict[str, Inputs]:
        """Each split as the weak model reads it."""
        model = self._weak.load(self.task.kind, self.task.fmt, self._device)
        return {name: Inputs(model, split.items) for name, split in self.task.splits.items()}

    @cached_property
    def _shared(self) -> Shared:
        task = self.task
        model = self._strong.load(task.kind, task.fmt, self._device)
        return Shared(model, self._strong.key(), task.train_unlabel.items, self._artefacts, task.test.items)

    def _teacher_key(self, seed: int) -> dict[str, Any]:
        key = self._key(self._weak, self._teacher, seed)
        return key | {"code": code_version(*_TRAIN_CODE)}

    def _ceiling_key(self, seed: int) -> dict[str, Any]:
        return self._student_key(seed) | {"code": code_version(*_TRAIN_CODE)}

    def _student_key(self, seed: int) -> dict[str, Any]:
        return self._key(self._strong, self._student, seed)

    def _key(self, model: ModelSource, protocol: Training, seed: int) -> dict[str, Any]:
        return {
            "task": self.task.content_hash,
            "model": model.key(),
            "protocol": protocol.model_dump(mode="json"),
            "seed": seed,
            "device": self._device,
        }

    def _once(self, kind: str, key: dict[str, Any], make: Callable[[], Arrays]) -> tuple[Arrays, bool]:
        """The arrays, and whether they were there already."""
        made = False

        def noted() -> Arrays:
            nonlocal made
            made = True
            return make()

        return self._artefacts.arrays(kind, key, noted), not made

    def _scores(self, name: str, seeds: Sequence[int], make: Callable[[int], tuple[Arrays, bool]]) -> Scores:
        probs, seconds = [], []
        for seed in seeds:
            arrays, cached = make(seed)
            probs.append(np.asarray(arrays["test"], dtype=np.float32))
            seconds.append(float(arrays["seconds"][0]))
            if self._progress is not None:
                right = float(np.mean((probs[-1] > 0.5) == (self._labels == 1)))
                self._progress(Event(name, seed, right, seconds[-1], cached))
        stacked = np.stack(probs)
        cut = dict(zip(SPLITS[-len(arrays["cut"]) :], arrays["cut"].tolist(), strict=True))
        return Scores(name, tuple(seeds), stacked, (stacked > 0.5) == (self._labels == 1), np.array(seconds), cut)


def _checked(seeds: Iterable[int]) -> tuple[int, ...]:
    chosen = tuple(seeds)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
        raise ExperimentError(f"seeds are {list(chosen)}: expected at least one, distinct, none negative")
    return chosen


def _cut(*tables: TokenTable) -> npt.NDArray[np.int64]:
    """How many texts of each table were cut, for the last of the splits in their order."""
    return np.array([table.truncated for table in tables], dtype=np.int64)


def _truth(split: Split, otherwise: str) -> npt.NDArray[np.int8]:
    if split.labels is None:
        raise ExperimentError(otherwise)
    return split.labels
