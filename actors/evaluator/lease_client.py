"""How the evaluator has work done: leases through the scheduler, and the private files that they read.

Promises: a piece of work that was asked for before a restart is found again by its key, not run twice; input files are
mode 0600 under `judge/`, live as long as the lease, and are deleted with it; a lease that the cluster lost is asked for
again under a new key, at most `ATTEMPTS` times in a row; code that ends its leases fails by itself; work of the
campaign's own that the budget refuses waits for what its other leases give back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from actors.evaluator.secret import write_private
from actors.scheduler.client import SchedulerClient
from cluster.errors import AarError, Reason, RefusedError
from cluster.names import RESEARCHERS
from cluster.store import Store
from cluster.trees import remove_tree
from gpu_pool.leases import Job, LeaseKind, LeaseRequest, LeaseResult, StepResult
from gpu_pool.weak_to_strong.items import ItemSet

ATTEMPTS = 3
T = TypeVar("T")
_ERROR_CHARS = 400
_DDL = "CREATE TABLE IF NOT EXISTS attempts (label TEXT PRIMARY KEY, attempt INTEGER NOT NULL)"
log = logging.getLogger(__name__)


class WorkError(AarError):
    """Work of the evaluator's own (a model, a teacher, a ceiling) failed, or the cluster kept losing its lease."""


@dataclass(frozen=True, slots=True)
class LeaseSpec:
    """One piece of work. `label` names it and makes it idempotent; `account` pays for it."""

    label: str
    account: str
    kind: LeaseKind
    gpus: float
    seconds: float
    memory_bytes: int
    job: Job
    strict: bool = True
    """The evaluator's own work: a step that fails is no result, and the lease is asked for again."""
    control: LeaseSpec | None = None
    """For foreign code: own work of the same cluster. Only where it is carried out is a lost lease the code's fault."""


class Joiner:
    """Runs each keyed piece once at a time; whoever asks for it meanwhile waits for the same one."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def once(self, key: str, make: Callable[[], Awaitable[T]]) -> T:
        """The result of `make()`, shared by all who ask while it runs. A cancelled caller does not cancel it."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(_call(make))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._end(key, done))
        result: T = await asyncio.shield(task)
        return result

    def _end(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._tasks[key]
        if not task.cancelled() and task.exception() is not None:
            log.warning("%s ended with %s", key, type(task.exception()).__name__)


async def _call(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


class LeaseClient:
    """Orders out, results in."""

    def __init__(self, scheduler: SchedulerClient, store: Store, private: Path, leases: Path) -> None:
        """`private` holds input files during a lease; `leases` is where lease results lie."""
        self._scheduler = scheduler
        self._store = store
        self._private = private
        self._leases = leases.resolve()
        self._out = 0
        self._asked = 0
        self._one_ended = asyncio.Event()
        store.schema(_DDL)

    async def run(self, order: LeaseSpec) -> LeaseResult:
        """Have `order` carried out. Raises `RefusedError` when it is refused, `WorkError` when it fails for good.

        A lease of foreign code that is lost `ATTEMPTS` times, while the order's control is carried out, has failed by
        that code: the last result comes back as it is, with the steps that it has. Whoever counts on it counts those
        that are missing as failures, so that nobody's code stops the work of others.
        """
        fault, result = "", None
        for _ in range(ATTEMPTS):
            attempt = self._attempt(order.label)
            request = LeaseRequest(
                key=f"evaluator/{order.label}/{attempt}",
                account=order.account,
                kind=order.kind,
                gpus=order.gpus,
                seconds=order.seconds,
                job=order.job,
                label=order.label,
                memory_bytes=order.memory_bytes,
            )
            result = await self._ask(request)
            fault = _fault(result, order.strict)
            if not fault:
                return result
            log.warning("lease %s for %s: %s", result.lease_id, order.label, fault)
            self._give_up(order.label, attempt)
        if result is not None and order.control is not None:
            self.discard([await self.run(order.control)])
            log.warning("%s failed %d times by its own code: %s", order.label, ATTEMPTS, fault)
            return result
        raise WorkError(f"{order.label} failed {ATTEMPTS} times, the last time: {fault}")

    async def _ask(self, request: LeaseRequest) -> LeaseResult:
        """One lease. Own work that is over budget, while other leases hold their worst case, waits for one to end.

        A refusal frees nothing, so it wakes nobody; whoever is refused while nothing else is out is refused for good.
        """
        patient = not request.account.startswith(RESEARCHERS)
        while True:
            others, ended = self._asked > 0, True
            self._asked += 1
            try:
                return await self._scheduler.run(request)
            except RefusedError as refusal:
                ended = False
                if not (patient and refusal.reason in (Reason.OVER_BUDGET, Reason.QUEUE_FULL) and others):
                    raise
            finally:
                self._asked -= 1
                if ended or not self._asked:
                    self._one_ended.set()
                    self._one_ended.clear()
            if self._asked:
                await self._one_ended.wait()

    def _attempt(self, label: str) -> int:
        """Which attempt at `label` counts: a restart asks for the same lease again, not for a new one."""
        rows = self._store.query("SELECT attempt FROM attempts WHERE label = ?", (label,))
        return int(rows[0]["attempt"]) if rows else 0

    def _give_up(self, label: str, attempt: int) -> None:
        with self._store.transaction() as db:
            db.execute("INSERT OR REPLACE INTO attempts VALUES (?, ?)", (label, attempt + 1))

    @contextmanager
    def files(self, label: str) -> Iterator[Path]:
        """A private directory for the inputs of one order, deleted at the end.

        What a killed evaluator left there stays: its lease may be running and read it. Whoever writes an input writes
        the same again, in one step, over what there is.
        """
        folder = self._private / hashlib.sha256(label.encode()).hexdigest()[:24]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._out += 1
        try:
            yield folder
        finally:
            self._out -= 1
            remove_tree(folder)

    def sweep(self) -> None:
        """Delete input files that a killed evaluator left behind, unless an order is out."""
        if not self._out:
            remove_tree(self._private)

    def discard(self, results: list[LeaseResult]) -> None:
        """Delete students and answers of leases that are scored: a ceiling's are as good as truth."""
        for path in (Path(p) for result in results for step in result.steps for p in step.outputs.values()):
            if path.suffix == ".safetensors" and path.resolve().is_relative_to(self._leases):
                path.unlink(missing_ok=True)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends well: it is there in full or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    yield partial
    partial.rename(path)


def save_items(items: ItemSet, path: Path) -> None:
    """Write an item file with mode 0600, in one step."""
    with _whole(path) as partial:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        items.save(partial)


def save_arrays(arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
    """Write named arrays as safetensors with mode 0600, in one step."""
    write_private(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def keep_output(step: StepResult, target: Path) -> None:
    """Copy the output of `target`'s name out of a lease, mode 0600, in full or not at all."""
    with _whole(target) as partial:
        shutil.copyfile(step.outputs[target.name], partial)
        partial.chmod(0o600)


def read_array(step: StepResult, file: str, name: str) -> npt.NDArray[Any]:
    """The one array `name` that a step wrote. Raises `WorkError` when the step failed or the file is anything else."""
    if not step.ok or file not in step.outputs:
        raise WorkError(f"{step.name}: {step.status}: {step.error[-_ERROR_CHARS:]}")
    try:
        found = load(Path(step.outputs[file]).read_bytes())
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WorkError(f"{step.name}: {file} is not usable: {type(error).__name__}") from error
    if set(found) != {name}:
        raise WorkError(f"{step.name}: {file} holds {sorted(found)[:3]}, expected {name} alone")
    return found[name]


def _fault(result: LeaseResult, strict: bool) -> str:
    """Why a lease is no result, or nothing. A method may fail in its own lease; the evaluator's own work may not."""
    if result.status not in ("done", "expired"):
        return f"the lease was {result.status}"
    if strict and result.status == "expired":
        return "the lease ended before the work was done"
    failed = [step for step in result.steps if not step.ok] if strict else []
    return f"{failed[0].name}: {failed[0].status}: {failed[0].error[-_ERROR_CHARS:]}" if failed else ""
