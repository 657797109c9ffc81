"""One lease of trials: inputs are written, students are trained and asked, answers become scores.

A trial that gives no student, or no probabilities, has no score; what that means is for the verdicts to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from actors.evaluator.audits import trials
from actors.evaluator.audits.material import Material, inverted, save_rows, shuffled
from actors.evaluator.audits.trials import Trial
from actors.evaluator.audits.verdicts import Score
from actors.evaluator.blinded_batch import BatchError, BlindedBatch, make_blinded_batch
from actors.evaluator.jobs import method_step, predict_step, protocol
from actors.evaluator.lease_client import WorkError, read_array, save_arrays, save_items
from actors.evaluator.reference_runs import Given, ReferenceRuns, Tools
from actors.evaluator.scoring_runs import Payer, method_order, write_code
from actors.evaluator.source import Method
from actors.evaluator.splits import Split, Splits
from actors.evaluator.statistics import over_items
from actors.evaluator.statistics.variance import Hits
from actors.evaluator.tiers import FIRST_TEACHER
from cluster.objects import ObjectStore
from gpu_pool.leases import LeaseResult, Step

TEACHER = FIRST_TEACHER["board"]
SPLIT = "board"
COPIES = 100
"""Items that are asked a second time, in another order and among other items."""
ON_POOL = (trials.NO_SOURCE, trials.NO_SOURCE_INVERTED)
"""Trials whose students are also asked about what they were trained on, where labels of their own show best."""
WITH_COPIES = trials.POOL_B
ON_DEV = BY_POOL = (trials.POOL_A, trials.POOL_B)
"""Trials that lack nothing but half of the items; their students are also asked about DEV, for its canaries."""

Said = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]
"""P(label 1) by item (n,), and which items were asked with their answers exchanged (n,)."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The scores of one lease's trials, by name, and their hits on DEV (n,); see `verdicts.Evidence`."""

    result: LeaseResult
    hidden: dict[str, Score]
    pool: dict[str, Score]
    dev: list[Hits]
    copies: float | None
    answers: dict[str, Said]
    """What the students of the two pools say of the hidden items."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A batch that a trial's student answers, and the labels that it is scored against."""

    step: str
    batch: BlindedBatch
    split: Split


class TrialRuns:
    """Trials of one method on one domain."""

    def __init__(
        self, tools: Tools, shared: ReferenceRuns, material: Material, objects: ObjectStore, method: Method
    ) -> None:
        self._t, self._shared, self._material = tools, shared, material
        self._objects, self._method = objects, method
        self._context = ("audit", tools.domain, method.code_hash)

    async def run(self, key: str, part: Sequence[Trial], payer: Payer) -> Findings:
        """Have `part` trained in one lease. Raises as `LeaseClient.run` does."""
        given = await self._shared.given()
        steps: list[Step] = []
        hidden: dict[str, _Question] = {}
        pool: dict[str, _Question] = {}
        dev: list[_Question] = []
        with self._t.lease_client.files(key) as folder:
            write_code(self._objects, self._method, folder / "code")
            for number, trial in enumerate(part):
                home = folder / str(number)
                home.mkdir(mode=0o700, exist_ok=True)
                train = f"{number}-train"
                steps.append(self._train(trial, home, folder / "code", given, train))
                hidden[trial.name] = self._ask(trial, SPLIT, f"{number}-predict", home, train, given.strong, steps)
                if trial.name in ON_POOL:
                    pool[trial.name] = self._ask(trial, "pool", f"{number}-pool", home, train, given.strong, steps)
                if trial.name in ON_DEV:
                    dev.append(self._ask(trial, "dev", f"{number}-dev", home, train, given.strong, steps))
                if trial.name == WITH_COPIES:
                    again = self._again(hidden[trial.name], home / "again.arrow")
                    steps.append(predict_step("again", train, given.strong, home / "again.arrow", self._t.sizes))
            order = method_order(key, payer, self._t.sizes, len(part), steps, self._shared.control(key, given))
            result = await self._t.lease_client.run(order)
        found = {name: score for name, asked in hidden.items() if (score := _score(result, asked)) is not None}
        own = {name: score for name, asked in pool.items() if (score := _score(result, asked)) is not None}
        copies = _copies(result, hidden[WITH_COPIES], again) if WITH_COPIES in hidden else None
        said = {name: _said(result, hidden[name]) for name in BY_POOL if name in hidden}
        answers = {name: values for name, values in said.items() if values is not None}
        rows = [hits for question in dev if (hits := _hits(result, question)) is not None]
        return Findings(result, found, own, rows, copies, answers)

    def _train(self, trial: Trial, home: Path, code: Path, given: Given, name: str) -> Step:
        """The trial's inputs, written into `home`, and the step that trains on them."""
        fresh = trial.strong == "random"
        inputs = {
            "items.arrow": given.items,
            "features.safetensors": self._material.random_features if fresh else given.features,
            "prior.safetensors": self._material.random_prior if fresh else given.prior,
        }
        rows = self._rows(trial)
        if trial.pool != "all":
            save_items(self._t.shown(self._t.splits.unlabelled().items.take(rows)), home / "items.arrow")
            for file in ("features.safetensors", "prior.safetensors"):
                save_rows(inputs[file], rows, home / file)
            inputs = {file: home / file for file in inputs}
        save_arrays({name: values[rows] for name, values in self._labels(trial).items()}, home / "weak.safetensors")
        inputs["weak.safetensors"] = home / "weak.safetensors"
        inputs |= {"code": code, "strong": self._material.random_strong if fresh else given.strong}
        seed = self._t.secret.seed(*self._context, "pair" if trial.name in ON_POOL else trial.name)
        spec, sizes = self._t.splits.domain.spec.student, self._t.sizes
        return method_step(name, inputs, protocol(spec, seed, sizes), sizes)

    def _rows(self, trial: Trial) -> npt.NDArray[np.int64]:
        shown, both = len(self._t.splits.split("pool_a")), len(self._t.splits.unlabelled())
        return {"all": np.arange(both), "a": np.arange(shown), "b": np.arange(shown, both)}[trial.pool]

    def _labels(self, trial: Trial) -> dict[str, npt.NDArray[np.float32]]:
        """The trial's weak labels of all unlabelled items, the arrays of a counted run's file."""
        if trial.weak == "null":
            return load_file(self._material.null_labels)
        labels: dict[str, npt.NDArray[np.float32]] = load_file(self._shared.weak_file(TEACHER))
        if trial.weak.startswith("shuffled"):
            labels = shuffled(labels, self._t.secret.generator(*self._context, "shuffle"))
        return inverted(labels) if trial.weak.endswith("inverted") else labels

    def _ask(
        self, trial: Trial, what: str, step: str, home: Path, train: str, strong: Path, steps: list[Step]
    ) -> _Question:
        split = self._t.splits.unlabelled() if what == "pool" else self._t.splits.split(what)
        if trial.weak == "null":
            split = self._material.coins(split)
            # As good as a trap: these are the labels that are scored, in a file like the ones that truth travels in.
            save_arrays({"labels": split.labels}, home / "labels.safetensors")
        batch = make_blinded_batch(self._t.secret, split, *self._context, trial.name)
        path = home / f"{step}.arrow"
        save_items(self._t.shown(batch.items), path)
        base = self._material.random_strong if trial.strong == "random" else strong
        steps.append(predict_step(step, train, base, path, self._t.sizes))
        return _Question(step, batch, split)

    def _again(self, asked: _Question, path: Path) -> npt.NDArray[np.int64]:
        """Ask some of a batch's items once more, by themselves and in reverse; their positions in the batch."""
        again = np.arange(min(COPIES, len(asked.split)))[::-1].copy()
        save_items(self._t.shown(asked.batch.items.take(again)), path)
        return again


def _answers(result: LeaseResult, step: str) -> npt.NDArray[np.float32] | None:
    try:
        return read_array(result.step(step), "probs.safetensors", "probs").astype(np.float32)
    except (WorkError, KeyError):
        return None


def _hits(result: LeaseResult, asked: _Question) -> Hits | None:
    probs = _answers(result, asked.step)
    if probs is None:
        return None
    try:
        return asked.batch.hits(probs, asked.split)
    except BatchError:
        return None


def _score(result: LeaseResult, asked: _Question) -> Score | None:
    found = _hits(result, asked)
    if found is None:
        return None
    hits = found.astype(np.float64)
    return Score(float(hits.mean()), math.sqrt(over_items(hits, asked.split.groups).variance))


def canary_score(rows: Sequence[Hits], splits: Splits) -> Score | None:
    """How much more often students agree with DEV's canaries than they err elsewhere; `rows` are their hits (n,)."""
    if len(rows) < len(ON_DEV):
        return None
    canaries, groups = splits.canaries("dev"), splits.split("dev").groups
    wrong = 1 - np.stack(rows).mean(axis=0)
    parts = [over_items(wrong[mask], groups[mask]) for mask in (canaries, ~canaries)]
    return Score(float(wrong[canaries].mean() - wrong[~canaries].mean()), math.sqrt(sum(p.variance for p in parts)))


def _said(result: LeaseResult, asked: _Question) -> Said | None:
    probs = _answers(result, asked.step)
    try:
        return None if probs is None else asked.batch.in_order(probs)
    except BatchError:
        return None


def _copies(result: LeaseResult, asked: _Question, again: npt.NDArray[np.int64]) -> float | None:
    first, second = _answers(result, asked.step), _answers(result, "again")
    if first is None or second is None or second.shape != (len(again), 2) or first.shape != (len(asked.batch.items), 2):
        return None
    apart = float(np.abs(first[again] - second).max())
    return apart if math.isfinite(apart) else None
