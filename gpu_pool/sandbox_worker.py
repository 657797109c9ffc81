"""A worker: one warm sandbox of a slot, running one step at a time.

Promises:
- A step ends at its deadline: first the zygote is asked, then, after a grace of seconds, the whole sandbox is killed.
- A worker that missed heartbeats, broke the protocol or was not clean after a step is dead and never used again.
- A `reusable` worker runs each step in namespaces of its own, with an output directory of its own: what one step made,
  set or left running is nowhere for the next one.
- What comes out of a step: the named files within their size limits (read back without following links), at most
  `LOG_BYTES` of its output (head and tail), and plain-data metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

from cluster.errors import AarError
from cluster.sandbox import (
    Bind,
    Limits,
    ReadbackError,
    Sandboxed,
    SandboxSpec,
    confine,
    python_binds,
    readback_to,
    spawn,
)
from cluster.trees import empty_tree, remove_tree, tree_bytes
from cluster.wire import FrameReader, WireError, frame
from gpu_pool.leases import Step, StepResult, StepStatus
from gpu_pool.scratch import Scratch
from gpu_pool.staging import CACHE_INSIDE, MOST_ENTRIES, StagingError, stage
from gpu_pool.uncontained import Uncontained

log = logging.getLogger(__name__)

LOG_BYTES = 256 << 10
READY_S = 180.0
"""Importing torch and transformers takes 6 s of one core; a loaded machine may need many times that."""
HEARTBEAT_S = 15.0
CANCEL_GRACE_S = 2.0
OUT_BYTES_SLACK = 64 << 20
_CODE = "import sys; sys.path.insert(0, {!r}); from gpu_pool.child.zygote import main; main({!r}, {!r})"
_SCRATCH_BYTES = {"/tmp": 64 << 20, "/ws": 64 << 20, "/dev/shm": 64 << 20}
_DRAINS = 64
"""Reads of 256 KiB: many times what a pipe holds, and an end to it."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_ABORT: dict[str, Any] = {}
Progress = Callable[[dict[str, Any]], None]
IsolationMode = Literal["namespaces", "landlock", "none"]


def _fileno(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise LaneError("a sandbox without pipes")
    return stream.fileno()


def _exceeds(out: Path, most_bytes: int) -> bool:
    size = tree_bytes(out, MOST_ENTRIES)
    return size is None or size > most_bytes


class LaneError(AarError):
    """A worker that could not start or died between steps."""


class _Log:
    """The first and the last part of a stream, with a count of what was dropped between."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        room = LOG_BYTES // 2 - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= LOG_BYTES // 2:
            gone = self._tail.popleft()
            self._tail_bytes -= len(gone)
            self._dropped += len(gone)

    def take(self) -> bytes:
        tail = b"".join(self._tail)
        middle = b"\n[... %d bytes left out ...]\n" % self._dropped if self._dropped else b""
        whole = bytes(self._head) + middle + tail
        self.__init__()  # type: ignore[misc]
        return whole


class SandboxWorker:
    """One sandbox with a zygote. Use from one event loop; `start` once, then `run` step after step."""

    def __init__(
        self,
        library: Path,
        cache_models: Path,
        limits: Limits,
        uid: int,
        gpus: tuple[int, ...] = (),
        *,
        isolation: IsolationMode = "namespaces",
        reusable: bool = False,
    ) -> None:
        """`library` is seen as /aar, `cache_models` as /cache; `uid` is the sandbox's own when the slot runs as root.

        `reusable` asks for steps that live apart from each other; whether they do is known after `start`.

        With the isolation `landlock` all lies where it lies on the host, and what one step leaves running lives until
        the worker is closed. With `none` there is no sandbox at all: only where the user allowed it, never graded above
        C.
        """
        self._library, self._cache_models = library, cache_models
        self._limits, self._uid, self._gpus = limits, uid, gpus
        self._isolation = isolation
        self.reusable = reusable and isolation == "namespaces"
        """Whether a step may follow one of another lease here; `dirty` or not."""
        self._steps = 0
        self._scratch = Scratch()
        if isolation == "landlock":
            self._scratch.hand_to(uid)
        self._in, self._out = self._scratch.folder("in"), self._scratch.folder("out")
        self._box: Sandboxed | Uncontained | None = None
        self._frames: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._log = _Log()
        self.dirty = False
        """Whether foreign code has run here."""

    def spec(self, argv: tuple[str, ...] | None = None) -> SandboxSpec:
        """The sandbox of this worker, running its zygote or, to be probed, `argv`."""
        places = {"/aar": self._library, CACHE_INSIDE: self._cache_models, "/in": self._in}
        moved = self._isolation == "namespaces"
        kind = ("apart" if self.reusable else "contained") if moved else "bare"
        interpreter = python_binds() if moved else tuple(Bind(bind.host, bind.host) for bind in python_binds())
        code = _CODE.format("/aar" if moved else str(self._library), kind, _SCRATCH_BYTES)
        return SandboxSpec(
            argv=argv or (sys.executable, "-I", "-B", "-c", code),
            ro_binds=(*interpreter, *(Bind(str(host), at if moved else str(host)) for at, host in places.items())),
            rw_binds=(Bind(str(self._out), "/out" if moved else str(self._out)),),
            env=ENVIRONMENT,
            uid=self._uid,
            tmp_bytes=_SCRATCH_BYTES["/tmp"],
            shm_bytes=_SCRATCH_BYTES["/dev/shm"],
            ws_bytes=_SCRATCH_BYTES["/ws"],
            limits=self._limits,
            gpus=self._gpus,
            nested=self.reusable and argv is None,
        )

    def _spawn(self) -> Sandboxed | Uncontained:
        if self._isolation == "namespaces":
            return spawn(self.spec())
        if self._isolation == "landlock":
            return confine(self.spec())
        code = _CODE.format(str(self._library), "bare", {})
        return Uncontained((sys.executable, "-I", "-B", "-c", code), ENVIRONMENT)

    @property
    def alive(self) -> bool:
        """Whether the sandbox runs."""
        return self._box is not None and self._box.poll() is None

    async def start(self) -> None:
        """Start the sandbox and wait until it is warm. Raises `LaneError` with what it printed."""
        loop = asyncio.get_running_loop()
        self._box = await asyncio.to_thread(self._spawn)
        frames_fd, log_fd = _fileno(self._box.stdout), _fileno(self._box.stderr)
        os.set_blocking(frames_fd, False)
        os.set_blocking(log_fd, False)
        loop.add_reader(frames_fd, self._read_frames, frames_fd, FrameReader())
        loop.add_reader(log_fd, self._read_log, log_fd)
        try:
            message = await asyncio.wait_for(self._frames.get(), READY_S)
        except TimeoutError:
            message = None
        if message is None or message.get("event") != "ready":
            await asyncio.sleep(0.1)
            tail = self._log.take()[-2000:].decode(errors="replace")
            await self.close()
            raise LaneError(f"a sandbox did not become warm within {READY_S:.0f} s; it printed: {tail}")
        if self.reusable and message.get("apart") is not True:
            log.warning("steps cannot live apart here, so no sandbox is used twice: %s", message.get("reason"))
            self.reusable = False

    def _read_frames(self, fd: int, reader: FrameReader) -> None:
        try:
            data = os.read(fd, 1 << 16)
            for message in reader.feed(data):
                if not isinstance(message, dict):
                    raise WireError("a frame that is no mapping")
                self._frames.put_nowait(message)
        except BlockingIOError:
            return
        except (WireError, OSError):
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(fd)
            self._frames.put_nowait(None)

    def _read_log(self, fd: int) -> None:
        try:
            data = os.read(fd, 1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._log.feed(data)
        else:
            asyncio.get_running_loop().remove_reader(fd)

    async def run(
        self, step: Step, inputs: dict[str, Path], seconds: float, threads: int, into: Path, progress: Progress
    ) -> StepResult:
        """Run one step within `seconds`; its outputs and log land in the directory `into`."""
        began = time.monotonic()
        into.mkdir(parents=True, exist_ok=True)
        self._log.take()
        moved = self._isolation == "namespaces"
        try:
            # In a thread, here and below: gigabytes may be copied, and other workers' heartbeats must be
            # heard meanwhile.
            await asyncio.to_thread(self._stage, inputs, CACHE_INSIDE if moved else str(self._cache_models))
        except StagingError as problem:
            return StepResult(step.name, "error", str(problem), 0.0, None, {}, "")
        out = await asyncio.to_thread(self._new_out)
        places = ("/in", f"/out/{out.name}" if self.reusable else "/out") if moved else (str(self._in), str(out))
        order = {"op": "step", "entry": step.entry, "params": step.params, "threads": threads}
        order["device"] = "cuda" if self._gpus else "cpu"
        order |= {"in": places[0], "out": places[1]}
        status, error, first_ms, metrics = await self._serve(order, out, step, began, seconds, progress)
        outputs: dict[str, str] = {}
        if status == "ok":
            try:
                outputs = await asyncio.to_thread(self._collect, step, out, into)
            except ReadbackError as problem:
                status, error = "bad_output", str(problem)
        log_path = into / "log.txt"
        self._drain_log()
        log_path.write_bytes(self._log.take())
        await asyncio.to_thread(self._clear, out)
        took = time.monotonic() - began
        return StepResult(step.name, status, error, took, first_ms, outputs, str(log_path), metrics)

    def _stage(self, inputs: dict[str, Path], cache: str) -> None:
        empty_tree(self._in)
        stage(inputs, self._in, self._cache_models, cache)

    def _new_out(self) -> Path:
        """A directory for what the step makes.

        In a reusable worker one that no step has seen: not only its files, its mode and attributes could say something.
        """
        if not self.reusable:
            return self._out
        self._steps += 1
        out = self._out / str(self._steps)
        out.mkdir(mode=0o755)
        if os.geteuid() == 0:
            os.chown(out, self._uid, self._uid)
        return out

    def _clear(self, out: Path) -> None:
        """What cannot be removed ends the worker, but in a reusable one it stays where no later step sees it."""
        gone = remove_tree(out) if self.reusable else empty_tree(out)
        if not (empty_tree(self._in) and (gone or self.reusable)):
            self._mark_dead()

    def _drain_log(self) -> None:
        """Read what the step printed last: the zygote passed it on before it said that the step was done."""
        stream = self._box.stderr if self._box is not None else None
        if stream is None or stream.closed:
            return
        for _ in range(_DRAINS):
            try:
                data = os.read(stream.fileno(), 1 << 18)
            except OSError:
                return
            if not data:
                return
            self._log.feed(data)

    def _collect(self, step: Step, out: Path, into: Path) -> dict[str, str]:
        outputs = {}
        for name, limit in step.outputs.items():
            if name in step.optional and not os.path.lexists(out / name):
                continue
            readback_to(out, name, into / name, limit)
            outputs[name] = str(into / name)
        return outputs

    async def _serve(
        self, order: dict[str, Any], out: Path, step: Step, began: float, seconds: float, progress: Progress
    ) -> tuple[StepStatus, str, float | None, dict[str, Any]]:
        """Hand the step over and follow it to its end: status, error, first-line time, metrics."""
        while not self._frames.empty() and self.alive:
            self._frames.get_nowait()
        if not self._send(order):
            return "crashed", "the sandbox was gone", None, {}
        first_ms: float | None = None
        most_out = sum(step.outputs.values()) + OUT_BYTES_SLACK
        too_much = f"it wrote more than {most_out >> 20} MiB or {MOST_ENTRIES:,} files and folders, or locked some"
        last_sign = time.monotonic()
        while True:
            now = time.monotonic()
            if now - began > seconds:
                await self._cancel()
                return "timeout", f"it ran longer than {seconds:.0f} s", first_ms, {}
            if now - last_sign > HEARTBEAT_S:
                await self._drop()
                return "crashed", "the sandbox stopped answering", first_ms, {}
            if _exceeds(out, most_out):
                await self._cancel()
                return "bad_output", too_much, first_ms, {}
            try:
                message = await asyncio.wait_for(self._frames.get(), min(1.0, max(0.01, seconds - (now - began))))
            except TimeoutError:
                continue
            last_sign = time.monotonic()
            if message is None:
                memory = self._box is not None and self._box.oom_killed()
                await self._drop()
                return (
                    ("memory", self._memory_text(), first_ms, {})
                    if memory
                    else ("crashed", "the sandbox died", first_ms, {})
                )
            if message.get("event") == "progress":
                data = message.get("data") or {}
                if data.get("event") == "first_line" and first_ms is None:
                    first_ms = (time.monotonic() - began) * 1000
                progress(data)
            elif message.get("event") == "done":
                status, error, first_ms, metrics = self._ended(message, first_ms)
                if status != "ok" and _exceeds(out, most_out):
                    return "bad_output", too_much, first_ms, metrics
                return status, error, first_ms, metrics
            elif message is _ABORT:
                await self._cancel()
                return "skipped", "the lease was cancelled", first_ms, {}

    def _memory_text(self) -> str:
        return f"it needed more than {self._limits.memory_bytes >> 20} MiB of memory"

    def _ended(
        self, message: dict[str, Any], first_ms: float | None
    ) -> tuple[StepStatus, str, float | None, dict[str, Any]]:
        if message.get("clean") is not True:
            self._mark_dead()
        metrics = message.get("metrics")
        metrics = metrics if isinstance(metrics, dict) else {}
        error = str(message.get("error", ""))
        match message.get("status"):
            case "ok":
                return "ok", "", first_ms, metrics
            case "error":
                status: StepStatus = "memory" if "MemoryError" in error or "not enough memory" in error else "error"
                return status, error, first_ms, metrics
            case "signal" if self._box is not None and self._box.oom_killed():
                self._mark_dead()
                return "memory", self._memory_text(), first_ms, metrics
            case _:
                return "crashed", error, first_ms, metrics

    def _send(self, message: dict[str, Any]) -> bool:
        if not self.alive or self._box is None or self._box.stdin is None:
            return False
        try:
            self._box.stdin.write(frame(message))
            self._box.stdin.flush()
        except OSError:
            return False
        return True

    async def _cancel(self) -> None:
        """End the running step; the sandbox survives only if it reports a clean end in time."""
        deadline = time.monotonic() + CANCEL_GRACE_S
        if self._send({"op": "cancel"}):
            while (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    message = await asyncio.wait_for(self._frames.get(), left)
                    if message is None:
                        break
                    if message.get("event") == "done":
                        if message.get("clean") is not True:
                            break
                        return
        await self._drop()

    def abort(self) -> None:
        """End the running step soon, as skipped."""
        self._frames.put_nowait(_ABORT)

    def _mark_dead(self) -> None:
        if self._box is not None:
            self._box.kill()

    async def close(self) -> None:
        """Kill the sandbox with everything in it and remove its directories."""
        await self._drop()
        await asyncio.to_thread(self._scratch.remove)

    async def _drop(self) -> None:
        if self._box is not None:
            loop = asyncio.get_running_loop()
            for stream in (self._box.stdout, self._box.stderr):
                if stream is not None and not stream.closed:
                    loop.remove_reader(stream.fileno())
            await asyncio.to_thread(self._box.kill)
            for stream in (self._box.stdin, self._box.stdout, self._box.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._box = None
