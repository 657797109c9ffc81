"""A slot: the owner of one whole GPU (or of a logical one), which carries out leases in sandboxes.

Promises:
- `run` is idempotent by lease id: a finished lease is answered from its directory, a running one is joined. The result
  is on disk before it is answered.
- Three kinds of workers, each with a uid of its own. Foreign code runs only in a method worker; what it made is read
  only in the inference worker, which gets students and items; truth goes to the library worker alone, where neither
  ever was.
- A worker that ran foreign code is killed at the end of its lease, and a spare is kept warm; with `sandbox_reuse =
  wiped` it serves on, where each step lives in namespaces of its own and `check_reuse` found that nothing passes
  between two.
- A fault of the slot's own storage, or its end, is no result: `run` raises `StorageError` or `ClosedError`, nothing is
  charged, and the lease may be carried out elsewhere.
- A lease uses at most what was reserved: its steps end at its end, and the reported GPU time is capped by it. The time
  of a `serve` step counts from its first start, even when the slot itself was started anew since. What was used is a
  monotonic duration; the wall clock only dates its start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cluster.clock import now_us
from cluster.money import gpu_ms
from cluster.sandbox import FIRST_UID, Limits
from cluster.storage import Place, StorageError, storage_fault
from cluster.trees import remove_tree
from cluster.wire import pack, unpack
from gpu_pool.handover import check_handover
from gpu_pool.leases import FOREIGN_ENTRIES, ClosedError, Lease, LeaseResult, LeaseStatus, Step, StepResult
from gpu_pool.sandbox_worker import IsolationMode, LaneError, SandboxWorker
from gpu_pool.serving.server import ModelServer
from gpu_pool.serving.state import ServerState
from gpu_pool.serving.step import seconds_since_first_start, serve_step

log = logging.getLogger(__name__)

LANE_START_ATTEMPTS = 3
ROOM_S = 1.0
"""How often it is looked at whether there is room while a lease runs."""
Role = Literal["method", "inference", "library"]
TrustedRole = Literal["inference", "library"]
_UIDS_PER_ROLE = 200
_ROLE_UIDS = {"method": 0, "inference": _UIDS_PER_ROLE, "library": 2 * _UIDS_PER_ROLE, "server": 3 * _UIDS_PER_ROLE}


def uid_of(role: Role | Literal["server"], index: int) -> int:
    """The uid of the sandboxes of one role in the slot of that index, taken on where the slot runs as root."""
    return FIRST_UID + _ROLE_UIDS[role] + index % _UIDS_PER_ROLE


def role_of(step: Step) -> Role:
    """Where a step runs."""
    if step.entry in FOREIGN_ENTRIES:
        return "method"
    return "inference" if step.entry == "predict" else "library"


@dataclass(frozen=True, slots=True)
class SlotSpec:
    """What a slot is: its name and node, its device, its share of the machine, how its sandboxes were graded."""

    name: str
    threads: int
    memory_bytes: int
    reuse: Literal["never", "wiped"]
    library: Path
    cache_models: Path
    index: int
    gpus: tuple[int, ...]
    gpu_name: str
    grade: str
    probe_hash: str
    isolation: IsolationMode = "namespaces"
    file_bytes: int = 512 << 20
    """The largest file that a step may write."""
    least_free_bytes: int = 0
    """With less free space where workers work and results lie, no lease is carried out."""
    most_leases: int = 1
    """How many leases may run here at once: with `wiped`, more method workers than this are of no use."""


@dataclass(slots=True)
class _Running:
    lease: Lease
    done: asyncio.Future[LeaseResult]
    note: str = "starting"
    progress: dict[str, Any] | None = None
    abort: Callable[[], None] | None = None
    """Ends the step that runs now."""
    server: ModelServer | None = None
    cancelled: bool = False


@dataclass(slots=True)
class _Use:
    """The time for which a lease pays: when it began on the monotonic clock (seconds) and on the wall's, for people."""

    began: float
    started_us: int

    @classmethod
    def now(cls, before_s: float = 0.0) -> _Use:
        """From now on; `before_s` seconds were used already."""
        use = cls(time.monotonic(), now_us())
        use.leave_out(-before_s)
        return use

    @property
    def seconds(self) -> float:
        """Seconds used so far."""
        return time.monotonic() - self.began

    def leave_out(self, seconds: float) -> None:
        """Do not count `seconds`, in which the lease had to wait."""
        self.began += seconds
        self.started_us += int(seconds * 1e6)


@dataclass(slots=True)
class _Trusted:
    """The one worker of a role that runs library code, and whose turn it is."""

    worker: SandboxWorker | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Slot:
    """Runs leases; several at once when they are fractions."""

    def __init__(
        self,
        spec: SlotSpec,
        make_worker: Callable[[Role], SandboxWorker] | None = None,
        make_server: Callable[[Lease], ModelServer] | None = None,
    ) -> None:
        """`make_worker(role)` builds a worker that is not started; tests give their own.

        `make_server(lease)` builds the model server of a lease; without it `serve` steps fail.
        """
        self._spec = spec
        self._make_server = make_server
        self._make = make_worker or self._new_worker
        self._running: dict[str, _Running] = {}
        self._trusted: dict[TrustedRole, _Trusted] = {"inference": _Trusted(), "library": _Trusted()}
        self._spares: list[SandboxWorker] = []
        self._lent = 0
        self._warming: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[LeaseResult]] = set()
        self._closed = False

    def _new_worker(self, role: Role) -> SandboxWorker:
        spec = self._spec
        limits = Limits(memory_bytes=spec.memory_bytes, processes=256, file_bytes=spec.file_bytes)
        uid = uid_of(role, spec.index)
        reusable = role == "method" and spec.reuse == "wiped"
        return SandboxWorker(
            spec.library, spec.cache_models, limits, uid, spec.gpus, isolation=spec.isolation, reusable=reusable
        )

    async def warm(self) -> None:
        """Start the library worker, then a spare method worker in the background; inference starts when needed."""
        await self._trusted_worker("library")
        self._warm_spare()

    async def check_reuse(self) -> dict[str, bool]:
        """Try whether a method worker may serve a second lease; rows (True: it held), empty where none is used twice.

        One row that did not hold, and from now on every worker that ran foreign code is replaced.
        """
        if self._spec.reuse == "never":
            return {}
        worker = await self._take_method_worker()
        rows = await check_handover(worker) if worker.reusable and isinstance(worker, SandboxWorker) else {}
        if not worker.reusable or not all(rows.values()):
            log.warning(
                "slot %s: no sandbox is used twice: %s", self._spec.name, [n for n, held in rows.items() if not held]
            )
            worker.dirty = True
            worker.reusable = False
            self._spec = replace(self._spec, reuse="never")
        await self._give_back(worker)
        return rows

    async def run(self, lease: Lease) -> LeaseResult:
        """Carry the lease out, or join it, or give its stored result."""
        stored = self._stored(lease)
        if stored is not None:
            return stored
        running = self._running.get(lease.id)
        if running is None:
            if self._closed:
                raise ClosedError(f"slot {self._spec.name} is being taken down")
            future: asyncio.Future[LeaseResult] = asyncio.get_running_loop().create_future()
            running = self._running[lease.id] = _Running(lease, future)
            task = asyncio.create_task(self._carry_out(running))
            self._tasks.add(task)
            task.add_done_callback(self._finished)
        return await asyncio.shield(running.done)

    async def cancel(self, lease_id: str) -> None:
        """End a running lease soon; its `run` then answers "cancelled" with what was used."""
        running = self._running.get(lease_id)
        if running is not None:
            running.cancelled = True
            if running.abort is not None:
                running.abort()

    def serving(self, lease_id: str) -> ServerState | None:
        """The model server of a running lease, `None` when there is none (yet, or any more)."""
        running = self._running.get(lease_id)
        return None if running is None or running.server is None else running.server.state

    def regrade(self, grade: str) -> None:
        """The grade that results carry from now on."""
        self._spec = replace(self._spec, grade=grade)

    def _finished(self, task: asyncio.Task[LeaseResult]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, StorageError | ClosedError):
            log.warning("slot %s: a lease goes back: %s", self._spec.name, error)
        else:
            log.error("slot %s: a lease failed", self._spec.name, exc_info=error)

    async def _carry_out(self, running: _Running) -> LeaseResult:
        try:
            result = await self._with_room(running)
            running.done.set_result(result)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._closed:
                error = ClosedError(f"slot {self._spec.name} was taken down")
            running.done.set_exception(error)
            running.done.exception()
            raise
        finally:
            self._running.pop(running.lease.id, None)
        return result

    def _places(self, lease: Lease) -> tuple[Place, ...]:
        least, run_dir = self._spec.least_free_bytes, Path(lease.directory).parent.parent
        return (
            Place("run directory", run_dir, least),
            Place("scratch directory", Path(tempfile.gettempdir()), least),
            Place("cache", self._spec.cache_models, least),
        )

    async def _with_room(self, running: _Running) -> LeaseResult:
        """The result, on disk. Raises `StorageError` when a lease was hurt by a place without room, of which only the
        slot's own observation counts, never what a step says of itself.
        """
        seen = await _room(self._places(running.lease))
        if seen:
            raise StorageError(seen)
        watch = asyncio.create_task(_short_of_room(self._places(running.lease)))
        directory = Path(running.lease.directory)
        try:
            result = await self._execute(running)
            hurt = any(step.status in ("error", "crashed", "timeout") for step in result.steps)
            if hurt and (seen := watch.result() if watch.done() else await _room(self._places(running.lease))):
                raise StorageError(seen)
            _write_result(directory, result)
        except (OSError, StorageError) as error:
            fault = storage_fault(error)
            if fault is None:
                raise
            await asyncio.to_thread(remove_tree, directory)  # half of it, on a full disk
            raise StorageError(fault) from error
        finally:
            watch.cancel()
        return result

    def _stored(self, lease: Lease) -> LeaseResult | None:
        path = Path(lease.directory) / "result.msgpack"
        if not path.exists():
            return None
        return LeaseResult.from_dict(unpack(path.read_bytes(), 16 << 20))

    async def _execute(self, running: _Running) -> LeaseResult:
        lease = running.lease
        directory = Path(lease.directory)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        done: dict[str, StepResult] = {}
        method_worker: SandboxWorker | None = None
        status: LeaseStatus = "done"
        use: _Use | None = None
        try:
            for step in lease.request.job.steps:
                if running.cancelled:
                    status = "cancelled"
                    done[step.name] = StepResult(step.name, "skipped", "the lease was cancelled", 0.0, None, {}, "")
                    continue
                if self._must_skip(step, done, lease.request.job.stop_on_error):
                    done[step.name] = StepResult(step.name, "skipped", "an earlier step failed", 0.0, None, {}, "")
                    continue
                if step.entry == "serve":
                    use = _Use.now(seconds_since_first_start(directory))
                    done[step.name] = await self._serve(step, running, use)
                    continue
                role = role_of(step)
                if role == "method" and (method_worker is None or not method_worker.alive):
                    await self._give_back(method_worker)
                    method_worker = None
                    method_worker = await self._take_method_worker()
                if role != "method":
                    await self._trusted_worker(role)
                use = use or _Use.now()
                running.note = step.name
                worker = method_worker if role == "method" else None
                result = await self._run_step(step, lease, done, worker, use, running)
                if result is None:
                    status = "expired"
                    result = StepResult(step.name, "timeout", "the lease ended", 0.0, None, {}, "")
                done[step.name] = result
        finally:
            await self._give_back(method_worker)
        if running.cancelled:
            status = "cancelled"
        use = use or _Use.now()
        seconds = use.seconds
        used = gpu_ms(lease.request.gpus, min(int(seconds * 1000), int(lease.request.seconds * 1000)))
        return LeaseResult(
            lease.id, status, tuple(done.values()), used, use.started_us, use.started_us + int(seconds * 1e6),
            self._spec.name, socket.gethostname(), self._spec.gpu_name, self._spec.grade, self._spec.probe_hash,
        )  # fmt: skip

    async def _serve(self, step: Step, running: _Running, use: _Use) -> StepResult:
        """A model server until it is idle, cancelled, out of time or beyond help."""
        if self._make_server is None:
            return StepResult(step.name, "error", "this pool serves no model", 0.0, None, {}, "")
        running.note = step.name
        left = running.lease.request.seconds - use.seconds
        running.server = self._make_server(running.lease)
        running.abort = running.server.stop
        try:
            return await serve_step(step, running.server, min(step.seconds, left))
        finally:
            running.abort = running.server = None

    def _must_skip(self, step: Step, done: dict[str, StepResult], stop_on_error: bool) -> bool:
        if stop_on_error and any(not result.ok for result in done.values()):
            return True
        sources = [value[1:].rsplit("/", 1) for value in step.inputs.values() if value.startswith("@")]
        return any(name not in done or file not in done[name].outputs for name, file in sources)

    async def _run_step(
        self,
        step: Step,
        lease: Lease,
        done: dict[str, StepResult],
        worker: SandboxWorker | None,
        use: _Use,
        running: _Running,
    ) -> StepResult | None:
        """The step's result, `None` when the lease is over.

        The wait for another lease's step in the trusted worker is no use of the GPU: the lease is neither charged for
        it nor shortened by it.
        """
        asked = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            role = role_of(step)
            if worker is None and role != "method":
                await stack.enter_async_context(self._trusted[role].turn)
                worker = await self._trusted_worker(role, locked=True)
            assert worker is not None, "a method step comes with its lane"
            worker.dirty = worker.dirty or role == "method"
            use.leave_out(time.monotonic() - asked)
            left = lease.request.seconds - use.seconds
            if left <= 0 or running.cancelled:
                return None
            return await self._run_in(worker, step, lease, done, min(step.seconds, left), running)

    async def _run_in(
        self,
        worker: SandboxWorker,
        step: Step,
        lease: Lease,
        done: dict[str, StepResult],
        seconds: float,
        running: _Running,
    ) -> StepResult:
        """Run a step in a worker that is ours alone; one in which anything unforeseen happened is not used again."""
        inputs: dict[str, Path] = {}
        for name, value in step.inputs.items():
            if value.startswith("@"):
                source, file = value[1:].rsplit("/", 1)
                inputs[name] = Path(done[source].outputs[file])
            else:
                inputs[name] = Path(value)

        def note(data: dict[str, Any]) -> None:
            running.progress = data

        running.abort = worker.abort
        try:
            into = Path(lease.directory) / step.name
            return await worker.run(step, inputs, seconds, lease.threads, into, note)
        except BaseException:
            await worker.close()
            raise
        finally:
            running.abort = None

    async def _trusted_worker(self, role: TrustedRole, locked: bool = False) -> SandboxWorker:
        held = self._trusted[role]
        async with contextlib.AsyncExitStack() as stack:
            if not locked:
                await stack.enter_async_context(held.turn)
            if held.worker is not None and not held.worker.alive:
                await held.worker.close()
                held.worker = None
            if held.worker is None:
                held.worker = await self._start_lane(role)
            return held.worker

    async def _start_lane(self, role: Role) -> SandboxWorker:
        for attempt in range(1, LANE_START_ATTEMPTS + 1):
            worker = self._make(role)
            try:
                await worker.start()
                return worker
            except LaneError as error:
                log.warning("slot %s: attempt %d to start a sandbox failed: %s", self._spec.name, attempt, error)
                if attempt == LANE_START_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _take_method_worker(self) -> SandboxWorker:
        while self._spares or (self._warming is not None and not self._warming.done()):
            if not self._spares and self._warming is not None:
                with contextlib.suppress(LaneError):
                    await asyncio.shield(self._warming)
                continue
            worker = self._spares.pop()
            if worker.alive:
                self._lent += 1
                self._warm_spare()
                return worker
            await worker.close()
        worker = await self._start_lane("method")
        self._lent += 1
        return worker

    async def _give_back(self, worker: SandboxWorker | None) -> None:
        if worker is None:
            return
        self._lent -= 1
        if worker.alive and (worker.reusable or not worker.dirty):
            self._spares.append(worker)
        else:
            await worker.close()
            self._warm_spare()

    def _warm_spare(self) -> None:
        """Keep one spare ahead of need, but with reuse never more workers than leases that may run at once."""
        busy = self._warming is not None and not self._warming.done()
        enough = self._spec.reuse == "wiped" and self._lent >= self._spec.most_leases
        if not self._spares and not busy and not enough:
            self._warming = asyncio.create_task(self._add_spare())
            self._warming.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _add_spare(self) -> None:
        self._spares.append(await self._start_lane("method"))

    def status(self) -> dict[str, Any]:
        """Name, device, running leases with their current step, number of warm spares."""
        return {
            "name": self._spec.name,
            "gpu_name": self._spec.gpu_name,
            "grade": self._spec.grade,
            "spares": len(self._spares),
            "running": [
                {"lease": r.lease.id, "label": r.lease.request.label, "step": r.note, "progress": r.progress}
                for r in self._running.values()
            ],
        }

    async def close(self) -> None:
        """Kill every sandbox of this slot."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._warming is not None:
            self._warming.cancel()
        await asyncio.gather(*self._tasks, *filter(None, [self._warming]), return_exceptions=True)
        trusted = [held.worker for held in self._trusted.values() if held.worker is not None]
        for worker in [*self._spares, *trusted]:
            await worker.close()


async def _room(places: tuple[Place, ...]) -> str:
    """What is wrong with the places now, or ""."""
    return "; ".join(filter(None, [await asyncio.to_thread(place.fault) for place in places]))


async def _short_of_room(places: tuple[Place, ...]) -> str:
    """Ends with what was wrong as soon as something is."""
    while not (seen := await _room(places)):
        await asyncio.sleep(ROOM_S)
    return seen


def _write_result(directory: Path, result: LeaseResult) -> None:
    """Atomically, so that a killed slot leaves either a whole result or none."""
    temporary = directory / ".result.msgpack"
    with temporary.open("wb") as file:
        file.write(pack(result.to_dict()))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(directory / "result.msgpack")
