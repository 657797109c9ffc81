"""Counted runs: a method is trained on weak labels with the evaluator's seeds, and its students answer hidden items.

For each seed i: train in a sandbox on pools A and B with the labels of the tier's i-th teacher and a seed drawn from
the secret; then apply the student, in a second sandbox without weak labels, to the tier's i-th batch. Teacher, seed and
batch are the same for all methods: whoever does the same gets the same answers. Only probabilities come back, and they
are scored here. A seed that fails in any way counts as its teacher's answers (no gain), never as
missing. A baseline that fails is no result but a fault of the setup, and is run again.
"""

from __future__ import annotations

import asyncio
import builtins
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actors.evaluator.blinded_batch import BatchError, BlindedBatch, make_blinded_batch
from actors.evaluator.jobs import Sizes, method_step, predict_step, protocol
from actors.evaluator.lease_client import Joiner, LeaseSpec, WorkError, read_array, save_items
from actors.evaluator.reference_runs import Given, ReferenceRuns, Tools
from actors.evaluator.result_store import ScoredRun, Usage
from actors.evaluator.source import Method, program
from actors.evaluator.statistics.variance import Hits
from actors.evaluator.tiers import Tier, training_seed
from cluster.objects import ObjectStore
from gpu_pool.leases import Job, LeaseKind, LeaseResult, Step
from gpu_pool.weak_to_strong.errors import MethodError

NO_STUDENT = "refused: its file is no student (form, names, shapes, types or values that the base model does not have)"

TOO_LARGE, MISSING, NO_FILE = "bad_output: too large", "bad_output: missing", "bad_output: no regular file"
"""All that is said of a student's file that the slot did not take."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays for a counted run, and as what kind of lease."""

    account: str
    kind: LeaseKind


class ScoringRuns:
    """Counted runs of one domain, each (method, tier) once."""

    def __init__(self, tools: Tools, shared: ReferenceRuns, objects: ObjectStore) -> None:
        self._t = tools
        self._shared = shared
        self._objects = objects
        self._join = Joiner()

    def key(self, code_hash: str, tier: Tier) -> str:
        """Where the run stands in the result store."""
        return f"run/{self._t.domain}/{tier}/{code_hash}"

    def found(self, code_hash: str, tier: Tier) -> ScoredRun | None:
        """The run, if it is done."""
        return self._t.result_store.run(self.key(code_hash, tier))

    async def run(self, method: Method, tier: Tier, teachers: list[int], weak: ScoredRun, payer: Payer) -> ScoredRun:
        """The method's run on `tier`, started if it is not known. `weak` holds the teachers' own hits, row by row.

        Raises `RefusedError` when a lease is refused, `WorkError` when the cluster keeps losing it.
        """
        key = self.key(method.code_hash, tier)
        return await self._join.once(key, lambda: self._run(key, method, tier, teachers, weak, payer))

    async def _run(
        self, key: str, method: Method, tier: Tier, teachers: list[int], weak: ScoredRun, payer: Payer
    ) -> ScoredRun:
        found = self._t.result_store.run(key)
        if found is not None:
            return found
        given = await self._shared.given()
        chunks = self._t.sizes.chunks(range(len(teachers)))
        runs = await asyncio.gather(*(self._chunk(key, method, tier, teachers, c, given, payer) for c in chunks))
        hits, failures = weak.hits.copy(), dict[int, str]()
        says = np.zeros(hits.shape, dtype=np.float32)
        for _, rows, failed in runs:
            failures |= failed
            for index, (row, said) in rows.items():
                hits[index], says[index] = row, said
        results = [result for result, _, _ in runs]
        comparable = says if method.entrant else None
        run = ScoredRun(hits, dict(sorted(failures.items())), Usage.of(results), comparable)
        self._t.result_store.put_run(key, run)
        self._t.lease_client.discard(results)
        return run

    async def _chunk(
        self,
        key: str,
        method: Method,
        tier: Tier,
        teachers: list[int],
        seeds: list[int],
        given: Given,
        payer: Payer,
    ) -> tuple[LeaseResult, dict[int, tuple[Hits, npt.NDArray[np.float64]]], dict[int, str]]:
        """One lease: hits and P(label 1) by seed index, and errors by seed index."""
        label = f"{tier}/{self._t.domain}/{method.name}/{method.code_hash[:12]}/{seeds[0]}-{seeds[-1]}"
        split = self._t.splits.split(tier)
        context = ("method", self._t.domain, tier, method.seeded_by)
        batches = {i: make_blinded_batch(self._t.secret, split, *context, i) for i in seeds}
        sizes = self._t.sizes.own() if payer.kind == "baseline" else self._t.sizes
        with self._t.lease_client.files(f"{key}/{seeds[0]}") as folder:
            steps = self._steps(method, tier, teachers, batches, given, folder, sizes)
            order = method_order(label, payer, sizes, len(seeds), steps, self._shared.control(label, given))
            result = await self._t.lease_client.run(order)
        rows: dict[int, tuple[Hits, npt.NDArray[np.float64]]] = {}
        failures: dict[int, str] = {}
        for i, batch in batches.items():
            try:
                answers = read_array(result.step(f"seed-{i}-predict"), "probs.safetensors", "probs")
                rows[i] = batch.hits(answers, split), batch.in_order(answers)[0]
            except (WorkError, BatchError, KeyError):
                failures[i] = _reason(result, i)
        return result, rows, failures

    def _steps(
        self,
        method: Method,
        tier: Tier,
        teachers: list[int],
        batches: dict[int, BlindedBatch],
        given: Given,
        folder: Path,
        sizes: Sizes,
    ) -> list[Step]:
        code = folder / "code"
        write_code(self._objects, method, code)
        spec, steps = self._t.splits.domain.spec.student, list[Step]()
        for i, batch in batches.items():
            batch_file = folder / f"sheet-{i}.arrow"
            save_items(self._t.shown(batch.items), batch_file)
            inputs = {
                "code": code,
                "items.arrow": given.items,
                "weak.safetensors": self._shared.weak_file(teachers[i]),
                "features.safetensors": given.features,
                "prior.safetensors": given.prior,
                "strong": given.strong,
            }
            seed = training_seed(self._t.secret, method.seeded_by, tier, self._t.domain, i)
            steps.append(method_step(f"seed-{i}-train", inputs, protocol(spec, seed, sizes), sizes))
            steps.append(predict_step(f"seed-{i}-predict", f"seed-{i}-train", given.strong, batch_file, sizes))
        return steps


def method_order(
    label: str, payer: Payer, sizes: Sizes, runs: int, steps: Sequence[Step], control: LeaseSpec
) -> LeaseSpec:
    """A lease in which a method trains `runs` times; one run that fails does not end the others.

    A lease that is lost time and again, where `control` is not, has no steps: all of its runs have failed.
    """
    job, seconds = Job(tuple(steps), stop_on_error=False), sizes.lease_seconds(runs)
    strict = payer.kind == "baseline"
    tried = None if strict else control
    return LeaseSpec(label, payer.account, payer.kind, sizes.gpus, seconds, sizes.memory_bytes, job, strict, tried)


def write_code(objects: ObjectStore, method: Method, folder: Path) -> None:
    """The program of a method, as a step reads it: exactly what its code hash is taken over."""
    for path, data in program(objects.get_tree(method.snapshot)).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(data)
        partial.rename(target)


def _reason(result: LeaseResult, index: int) -> str:
    """Why a seed failed, for the submitter: how its training ended, and the kind of error if Python names it.

    One of a few words, none that the method can choose freely, no number of its making: it has seen pool B, which
    researchers may not see. A pilot shows the whole error. Of the step that saw scored items, only whether the library
    took the student's file for one.
    """
    try:
        trained = result.step(f"seed-{index}-train")
    except KeyError:
        return "not reached before the lease ended"
    if trained.ok:
        asked = next((step.error for step in result.steps if step.name == f"seed-{index}-predict"), "")
        refused = re.match(r"[\w.]*\bStudentError:", asked)
        return (
            NO_STUDENT if refused else "the student could not be applied to the items, or gave no finite probabilities"
        )
    if trained.status == "bad_output":
        return _bad_output(trained.error)
    kind = trained.error.strip().split(":", 1)[0]
    known = getattr(builtins, kind, None) if kind.isidentifier() else None
    named = isinstance(known, type) and issubclass(known, Exception)
    if kind.rpartition(".")[2] == MethodError.__name__:
        return f"{trained.status}: method.py or what it returned is no method's (see a pilot's error)"
    return f"{trained.status}: {kind}" if named else trained.status


def _bad_output(said: str) -> str:
    """The word for what the slot said of the place of a student's file; sizes and counts of names are left out."""
    if "more than" in said or "beyond" in said:
        return TOO_LARGE
    return MISSING if "is missing" in said else NO_FILE
