"""What a method gets: the run of one training on weak labels.

A method is a file `method.py` with `def train(run: MethodRun) -> Student`. It sees texts, the weak teacher's
probabilities and the strong model; it never sees a true label. Other modules next to `method.py` can be imported.

    def train(run: MethodRun) -> Student:
        labels = blocks.hard(run.weak)                       # (n,) 0.0 or 1.0
        config = run.config(epochs=2, loss=losses.logconf(0.75))
        keep = blocks.agreement(run, labels, config)         # indices of items to train on
        model = run.fit(labels[keep], config, indices=keep)  # a fresh strong model, fine-tuned
        return run.student(model)

Everything random should come from `run.seed`; the global streams of torch, numpy and `random` start from it. When
`seconds_left()` reaches 0 the trainer raises DeadlineError; soon after, the process is ended from outside.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cluster.training import Training
from gpu_pool.weak_to_strong.errors import DeadlineError, MethodError
from gpu_pool.weak_to_strong.generation import Generator, TransformersGenerator
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, softmax
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import Job, TrainConfig, TrainReport, finetune_many
from gpu_pool.weak_to_strong.training.jobs import pays

Log = Callable[..., None]


class PlaceParams(BaseModel):
    """Where a model computes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: int | None = Field(default=None, ge=1, description="threads of torch; none: as it is set already")
    device: Literal["cpu", "cuda"] = "cpu"


class RunParams(Training, PlaceParams):
    """One training: the task's protocol, and what is the run's own."""

    seed: int = Field(default=0, ge=0)
    seconds: float | None = Field(default=None, gt=0, description="time the run may take; none: no limit")

    @classmethod
    def of(cls, training: Training, **own: Any) -> RunParams:
        """A run of `training` with the fields that are its own."""
        return cls(**training.model_dump(), **own)

    def train_config(self) -> TrainConfig:
        """The engine's configuration."""
        return TrainConfig(
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch,
            seed=self.seed,
            trainable=self.trainable,
            betas=self.betas,
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The arguments of one `MethodRun.fit`."""

    targets: npt.ArrayLike
    config: TrainConfig
    indices: npt.ArrayLike | None = None
    weights: npt.ArrayLike | None = None


class MethodRun:
    """Inputs and tools of one run; n items, a strong model of L layers and width d.

    Attributes: `items`, the unlabelled ItemSet; `weak`, float32 (n,) = P(label 1) by the weak teacher; `weak_members`,
    the same by each of k teachers (n, k) when the run was given them, else None; `seed`, int;
    `protocol`, the task's TrainConfig (what `vanilla` uses); `base`, the pretrained strong LabelModel (leave it as it
    is; take `strong()`); `device`, `threads`; `deadline`, time.monotonic seconds or None.
    """

    def __init__(
        self,
        items: ItemSet,
        weak: npt.ArrayLike,
        base: LabelModel,
        params: RunParams | None = None,
        log: Log | None = None,
        weak_members: npt.ArrayLike | None = None,
    ) -> None:
        params = params or RunParams()
        self.items = items
        self.weak: FloatArray = np.asarray(weak, dtype=np.float32)
        self.weak_members: FloatArray | None = None if weak_members is None else np.asarray(weak_members, np.float32)
        self.base = base
        self.seed = params.seed
        self.protocol = params.train_config()
        self.device = params.device
        self.threads = params.threads or torch.get_num_threads()
        self._log = log
        self.deadline = None if params.seconds is None else time.monotonic() + params.seconds
        if self.weak.shape != (len(items),) or not np.isfinite(self.weak).all():
            raise MethodError(
                f"weak labels have shape {self.weak.shape}, expected ({len(items)},) finite probabilities"
            )
        members = self.weak_members
        if members is not None and (members.ndim != 2 or len(members) != len(items) or not np.isfinite(members).all()):
            raise MethodError(f"weak members have shape {members.shape}, expected ({len(items)}, teachers), finite")

    @classmethod
    def from_dir(cls, in_dir: Path, params: dict[str, Any], log: Log | None = None) -> MethodRun:
        """The run whose files lie in `in_dir`.

        items.arrow; weak.safetensors with `probs` (n, 2) and optionally `members` (n, k); strong/, the model folder;
        optionally features.safetensors with `hidden` and prior.safetensors with `prior`, else both are computed when
        first used. MethodError when they do not fit.
        """
        try:
            settings = RunParams.model_validate(params)
            given = load_file(in_dir / "weak.safetensors")
            weak = given["probs"]
        except (ValidationError, OSError, SafetensorError, KeyError) as error:
            raise MethodError(f"run inputs in {in_dir}: {error}") from error
        items = ItemSet.load(in_dir / "items.arrow")
        if weak.shape != (len(items), 2):
            raise MethodError(f"weak.safetensors: probs have shape {weak.shape}, expected ({len(items)}, 2)")
        base = LabelModel.load(in_dir / "strong", items.kind, device=settings.device)
        run = cls(items, weak[:, 1], base, settings, log, given.get("members"))
        for attribute in ("hidden", "prior"):
            path = in_dir / ("features.safetensors" if attribute == "hidden" else "prior.safetensors")
            if path.is_file():
                run.__dict__[attribute] = _cached(path, attribute, len(items))
        return run

    @cached_property
    def prior(self) -> FloatArray:
        """The strong model's zero-shot prediction, float32 (n,) = P(label 1), calibrated to half ones without truth."""
        return self.base.zero_shot(self.items)

    @cached_property
    def hidden(self) -> FloatArray:
        """The strong model's states at the last position, float32 (n, L + 1, d); index L is after the final norm."""
        return self.base.hidden(self.items)

    @cached_property
    def swapped_prior(self) -> FloatArray:
        """`prior` of the items with first and second exchanged (pairs only)."""
        return self.base.zero_shot(self.items.swap())

    @cached_property
    def swapped_hidden(self) -> FloatArray:
        """`hidden` of the items with first and second exchanged (pairs only)."""
        return self.base.hidden(self.items.swap())

    @property
    def groups(self) -> tuple[str, ...]:
        """The consistency group of each item: the items' own groups, or else their prompts."""
        own: tuple[str, ...] | None = getattr(self.items, "groups", None)
        return self.items.prompts if own is None else own

    @cached_property
    def tokens(self) -> TokenTable:
        """Token ids of each item's text."""
        return self.base.tokenize(self.items)

    def strong(self) -> LabelModel:
        """A fresh copy of the pretrained strong model."""
        return self.base.copy()

    def label_token(self, label: int, *, prior: bool = False) -> int:
        """The token id of label 0 or 1 as the trained question, or the zero-shot one, is answered."""
        names = self.base.fmt.answers(prior=prior)
        return int(self.base.tokenizer.backend_tokenizer.encode(names[label], add_special_tokens=False).ids[0])

    def generator(self, model: LabelModel | None = None) -> Generator:
        """Text generation with `model` (by default the pretrained strong one)."""
        chosen = model or self.base
        return TransformersGenerator(chosen.lm, chosen.tokenizer)

    def config(self, **changes: Any) -> TrainConfig:
        """The task's protocol with `changes` (fields of TrainConfig)."""
        return dataclasses.replace(self.protocol, **changes)

    def finetune(
        self,
        model: LabelModel,
        targets: npt.ArrayLike,
        config: TrainConfig | None = None,
        *,
        indices: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
    ) -> TrainReport:
        """Train `model` in place on the items at `indices` (all by default) until the run's deadline.

        `targets` and `weights` have one row for each chosen item; see `trainer.finetune`.
        """
        return self._trained([Job(model, self._chosen(indices), targets, config or self.protocol, weights)])[0]

    def fit(
        self,
        targets: npt.ArrayLike,
        config: TrainConfig | None = None,
        *,
        indices: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
    ) -> LabelModel:
        """A fresh strong model, trained like `finetune`; what training leaves frozen it shares with `base`."""
        model = self.base.copy((config or self.protocol).trainable)
        self.finetune(model, targets, config, indices=indices, weights=weights)
        return model

    def fit_many(self, fits: Sequence[Fit]) -> Iterator[LabelModel]:
        """`fit` of each of `fits`, in order, with the same results; trained together where that is faster.

        Models are made when they are asked for, so that few are in memory where training together does not pay.
        """
        tables = {id(fit.indices): self._chosen(fit.indices) for fit in fits}
        waiting = [Job(self.base, tables[id(fit.indices)], fit.targets, fit.config, fit.weights) for fit in fits]
        while waiting:
            count = pays(waiting[0])
            jobs = [dataclasses.replace(job, model=self.base.copy(job.config.trainable)) for job in waiting[:count]]
            del waiting[:count]
            self._trained(jobs)
            yield from (job.model for job in jobs)

    def predict(self, model: LabelModel, indices: npt.ArrayLike | None = None) -> FloatArray:
        """P(label 1) of the run's own items at `indices`, (m,)."""
        return softmax(model.logits(self._chosen(indices)))[:, 1]

    def student(self, model: LabelModel) -> Student:
        """The result: `model` as a student."""
        return Student.from_model(model, self.base)

    def seconds_left(self) -> float:
        """Seconds until the deadline, not below 0; infinite without one."""
        return float("inf") if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check_deadline(self) -> None:
        """Raise DeadlineError when the run's time is over; for loops of a method's own."""
        if self.seconds_left() == 0:
            raise DeadlineError("the run's time was over")

    def log(self, message: str, **metrics: float) -> None:
        """Report a line and numbers; they stand in the run's log."""
        if self._log is not None:
            self._log(message, **metrics)

    def _trained(self, jobs: Sequence[Job]) -> list[TrainReport]:
        reports = finetune_many(jobs, on_progress=self._progress, deadline=self.deadline)
        for job, report in zip(jobs, reports, strict=True):
            self.log("trained", items=len(job.tokens), steps=report.steps, seconds=report.seconds, loss=report.loss)
        return reports

    def _progress(self, step: int, steps: int, loss: float) -> None:
        self.log("step", step=step, steps=steps, loss=loss)

    def _chosen(self, indices: npt.ArrayLike | None) -> TokenTable:
        if indices is None:
            return self.tokens
        index = np.asarray(indices)
        index = np.flatnonzero(index) if index.dtype == bool else index
        return self.tokens.take(index)


def _cached(path: Path, name: str, n: int) -> FloatArray:
    try:
        values = load_file(path)[name]
    except (OSError, SafetensorError, KeyError) as error:
        raise MethodError(f"{path.name}: {error}") from error
    if len(values) != n:
        raise MethodError(f"{path.name}: {len(values)} rows, expected {n}")
    return np.asarray(values, dtype=np.float32)
