"""A whole weak-to-strong experiment: teachers, ceilings and methods over seeds, scored on the same test items.

    artefacts = Artefacts(Path("~/.cache/aar/w2s").expanduser())
    experiment = Experiment.generated("generated:math", artefacts)
    weak, ceiling = experiment.weak(range(5)), experiment.ceiling(range(5))
    vanilla = experiment.method(MethodFile.of("vanilla"), range(5))
    pgr(vanilla.accuracy, weak.accuracy, ceiling.accuracy)

Promises: seed s of a method learns from the labels of teacher s; the data are the same for all seeds, so seeds
differ in training alone, as in the published protocol; no method sees a label; whatever was computed once for the same
content, seed, protocol and code is read and not computed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.errors import W2SError
from gpu_pool.weak_to_strong.experiment.methods import MethodFile
from gpu_pool.weak_to_strong.experiment.protocol import Protocol
from gpu_pool.weak_to_strong.experiment.shared import LIBRARY, MODEL_CODE, Shared, SharedRun
from gpu_pool.weak_to_strong.experiment.sources import ModelSource, Pretrained, world_of
from gpu_pool.weak_to_strong.methods.ceiling import train_ceiling
from gpu_pool.weak_to_strong.methods.teacher import train_teacher
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.tasks import generated_domain, load_task
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts, code_version
from gpu_pool.weak_to_strong.tasks.schema import Split, Task

Hits = npt.NDArray[np.bool_]
_TRAIN_CODE = (
    *MODEL_CODE,
    *(f"{LIBRARY}.{name}" for name in ("losses", "trainer", "training", "student", "run", "methods.truth")),
)
_METHOD_CODE = (*_TRAIN_CODE, f"{LIBRARY}.blocks", f"{LIBRARY}.generation")


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

    `hits` bool (seeds, items): whether the likelier label is right; `seconds` (seeds,) of training, without what
    is shared.
    """

    name: str
    seeds: tuple[int, ...]
    probs: FloatArray
    hits: Hits
    seconds: npt.NDArray[np.float64]

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
        teacher: Protocol | None = None,
        student: Protocol | None = None,
        device: str = "cpu",
        progress: Callable[[Event], None] | None = None,
    ) -> None:
        """`progress` hears of each run when it is done."""
        self.task = task
        self._weak = weak
        self._strong = strong
        self._artefacts = artefacts
        self._teacher = teacher or Protocol()
        self._student = student or Protocol()
        self._device = device
        self._progress = progress
        self._labels = _truth(task.test, f"task {task.name}: test has no labels")

    @classmethod
    def generated(cls, spec: str, artefacts: Artefacts, *, seed: int = 0, **options: Any) -> Experiment:
        """The experiment of `generated:NAME[:SIZE[:WORLD_SEED]]` with the world's own models and protocols.

        `options` as for the constructor. Models are pretrained when they are first needed, in one to two minutes.
        """
        domain = generated_domain(spec)
        if domain is None:
            raise ExperimentError(f"{spec!r} is no generated task: expected generated:NAME[:SIZE[:WORLD_SEED]]")
        protocols = {
            "teacher": Protocol.of_domain(domain.spec.teacher),
            "student": Protocol.of_domain(domain.spec.student),
        }
        weak, strong = (Pretrained(domain, world_of(domain, spec), which, artefacts) for which in ("weak", "strong"))
        return cls(load_task(spec, seed), weak, strong, artefacts, **(protocols | options))

    def weak(self, seeds: Iterable[int]) -> Scores:
        """Teachers, trained on the truth of train_label. Row i is the teacher of row i of any method."""
        return self._scores("weak", seeds, self._teach)

    def ceiling(self, seeds: Iterable[int]) -> Scores:
        """The strong model trained on the truth of train_unlabel; ExperimentError when that has no labels."""
        where = f"task {self.task.name}: train_unlabel has no labels"
        labels = _truth(self.task.train_unlabel, f"{where}, and a ceiling is trained on them: PGR needs their truth")

        def make(seed: int) -> tuple[dict[str, npt.NDArray[Any]], bool]:
            key = self._student_key(seed) | {"code": code_version(*_TRAIN_CODE)}

            def train() -> Student:
                protocol = self._student.of_seed(seed, self._device)
                return train_ceiling(self._shared.model, self.task.train_unlabel.items, labels, protocol)

            return self._once("ceiling", key, lambda: self._timed(train))

        return self._scores("ceiling", seeds, make)

    def method(self, method: MethodFile, seeds: Iterable[int]) -> Scores:
        """Students of a method. Errors of the method's own pass through; MethodError when it breaks the contract."""
        digest = method.digest()

        def make(seed: int) -> tuple[dict[str, npt.NDArray[Any]], bool]:
            key = self._student_key(seed) | {"method": digest, "code": code_version(*_METHOD_CODE)}
            key["teacher"] = self._teacher_key(seed)
            return self._once("student", key, lambda: self._train(method, seed))

        return self._scores(method.name, seeds, make)

    def weak_labels(self, seed: int) -> FloatArray:
        """The labels that methods of this seed learn from: teacher `seed`'s P(label 1) of train_unlabel, (n,)."""
        return self._teach(seed)[0]["unlabelled"]

    def _train(self, method: MethodFile, seed: int) -> dict[str, npt.NDArray[Any]]:
        taught, params = self._teach(seed)[0], self._student.of_seed(seed, self._device)
        run = SharedRun(self._shared, taught["unlabelled"], params, members=taught["members"])
        with method.imported() as train:
            return self._timed(lambda: train(run))

    def _timed(self, train: Callable[[], Student]) -> dict[str, npt.NDArray[Any]]:
        """Test probabilities and seconds of a student of the strong model."""
        shared = self._shared  # loads the model, which is not the run's time
        _ = shared.tokens
        before, start = shared.seconds, time.monotonic()
        student = train()
        seconds = time.monotonic() - start - (shared.seconds - before)
        return {"test": student.predict(self.task.test.items)[:, 1], "seconds": np.array([seconds])}

    def _teach(self, seed: int) -> tuple[dict[str, npt.NDArray[Any]], bool]:
        task = self.task

        def make() -> dict[str, npt.NDArray[Any]]:
            model, labels = self._weak_model, _truth(task.train_label, f"task {task.name}: train_label has no labels")
            start = time.monotonic()
            student = train_teacher(model, task.train_label.items, labels, self._teacher.of_seed(seed, self._device))
            seconds = time.monotonic() - start
            members = student.opinions(task.train_unlabel.items)
            return {
                "unlabelled": student.pool(members)[:, 1],
                "members": members.astype(np.float32),
                "test": student.predict(task.test.items)[:, 1],
                "seconds": np.array([seconds]),
            }

        return self._once("weak", self._teacher_key(seed), make)

    @cached_property
    def _weak_model(self) -> LabelModel:
        return self._weak.load(self.task.kind, self.task.fmt, self._device)

    @cached_property
    def _shared(self) -> Shared:
        model = self._strong.load(self.task.kind, self.task.fmt, self._device)
        return Shared(model, self._strong.key(), self.task.train_unlabel.items, self._artefacts)

    def _teacher_key(self, seed: int) -> dict[str, Any]:
        key = self._key(self._weak, self._teacher, seed)
        return key | {"code": code_version(*_TRAIN_CODE)}

    def _student_key(self, seed: int) -> dict[str, Any]:
        return self._key(self._strong, self._student, seed)

    def _key(self, model: ModelSource, protocol: Protocol, seed: int) -> dict[str, Any]:
        return {
            "task": self.task.content_hash,
            "model": model.key(),
            "protocol": protocol.key(),
            "seed": seed,
            "device": self._device,
        }

    def _once(
        self, kind: str, key: dict[str, Any], make: Callable[[], dict[str, npt.NDArray[Any]]]
    ) -> tuple[dict[str, npt.NDArray[Any]], bool]:
        """The arrays, and whether they were there already."""
        made = False

        def noted() -> dict[str, npt.NDArray[Any]]:
            nonlocal made
            made = True
            return make()

        return self._artefacts.arrays(kind, key, noted), not made

    def _scores(
        self, name: str, seeds: Iterable[int], make: Callable[[int], tuple[dict[str, npt.NDArray[Any]], bool]]
    ) -> Scores:
        chosen = tuple(seeds)
        if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
            raise ExperimentError(f"seeds are {list(chosen)}: expected at least one, distinct, none negative")
        probs, seconds = [], []
        for seed in chosen:
            arrays, cached = make(seed)
            probs.append(np.asarray(arrays["test"], dtype=np.float32))
            seconds.append(float(arrays["seconds"][0]))
            if self._progress is not None:
                right = float(np.mean((probs[-1] > 0.5) == (self._labels == 1)))
                self._progress(Event(name, seed, right, seconds[-1], cached))
        stacked = np.stack(probs)
        return Scores(name, chosen, stacked, (stacked > 0.5) == (self._labels == 1), np.array(seconds))


def _truth(split: Split, otherwise: str) -> npt.NDArray[np.int8]:
    if split.labels is None:
        raise ExperimentError(otherwise)
    return split.labels
