"""The warm process of a worker: imports torch once, then forks one child per step.

Runs inside a bubblewrap sandbox. Frames come on the descriptor that was stdin and leave on the one that was stdout;
this process is not dumpable, so that a child of the same uid can neither read its memory nor its descriptors. The child
of the next step is forked ahead and waits for its order; it has closed all that it inherited before any foreign code
runs, and what it prints comes through a pipe of its own.

Three kinds, by what a child shares with this process:
- `apart`: nothing. Each child has namespaces of its own (see `apart.py`), and nothing of it survives it.
- `contained`: the sandbox. What a child left behind is killed and wiped, yet a child could have changed this process
  (its limits, its priority) or left System V queues: for library code, and for foreign code of one lease only.
- `bare`: no namespaces. Only the step's own process group is ended and nothing is wiped; the grade says so.

Promises (all but `bare`):
- One step at a time. When `done` is sent, no other process of this PID namespace is alive and the next step finds
  `/tmp`, `/ws` and `/dev/shm` empty; `clean` is false when that could not be had.
- A heartbeat leaves every second while a step runs.
- A `cancel` frame ends the step as `cancelled`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Never, cast

from cluster.trees import empty_tree
from cluster.wire import FrameReader, WireError, read_frame, write_frame
from gpu_pool.child import apart

Kind = Literal["apart", "contained", "bare"]
_HEARTBEAT_S = 1.0
_CHILD_FRAME_BYTES = 1 << 16
_MAX_CHILD_FRAMES = 2000
"""Progress frames relayed per step; a method that logs more is heard no further."""
_OUT = "/out"
_SCRATCH = (Path("/tmp"), Path("/ws"), Path("/dev/shm"))


def _others() -> list[int]:
    keep = {1, os.getpid()}
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) not in keep
    ]


def _kill_others(patience_s: float = 5.0) -> bool:
    """Kill every other process of the namespace and wait until none is left; whether that succeeded."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not _others():
            return True
        time.sleep(0.005)
    return False


def _wipe_scratch() -> bool:
    emptied = [empty_tree(place) for place in _SCRATCH if place.is_dir()]
    return all(emptied)


@dataclass(slots=True)
class _Child:
    """The forked process of one step: where its order goes, where its frames and its output come from."""

    pid: int
    orders: int
    frames: int
    output: int

    def close(self) -> None:
        for descriptor in (self.orders, self.frames, self.output):
            os.close(descriptor)


class Zygote:
    """Forks ahead, reads step frames, relays, cleans up."""

    def __init__(self, down: BinaryIO, up: BinaryIO, kind: Kind, scratch: Mapping[str, int], filters: _Filters) -> None:
        """`scratch`: places of an apart child's tmpfs with their bytes; `filters` as bytes, foreign and not."""
        self._down, self._up = down, up
        self._kind, self._scratch, self._filters = kind, scratch, filters

    def send(self, message: dict[str, Any]) -> None:
        """One frame to the slot."""
        write_frame(self._up, message)

    def serve(self) -> None:
        """Serve steps until the slot closes the pipe."""
        reason = self._choose_kind()
        child = self._prepare()
        self.send({"event": "ready", "pid": os.getpid(), "apart": self._kind == "apart", "reason": reason})
        while (message := read_frame(self._down)) is not None:
            if message.get("op") == "step":
                self._run_step(child, message)
                child = self._prepare()
        os.kill(child.pid, signal.SIGKILL)

    def _choose_kind(self) -> str:
        """Try once whether children can live apart, else they do not; why not."""
        if self._kind != "apart":
            return ""
        shared = apart.shared_memory()
        if shared:
            self._kind = "contained"
            return f"shared memory: {', '.join(sorted(set(shared)))[:200]}"
        child = self._prepare()
        write_order(child.orders, {"trial": True})
        problem = read_all(child.output)
        _, status = os.waitpid(child.pid, 0)
        child.close()
        if status == 0:
            return ""
        self._kind = "contained"
        return problem.decode(errors="replace")[-200:] or f"a trial ended with status {status}"

    def _prepare(self) -> _Child:
        """Fork the process of the next step; it waits for its order."""
        orders, frames, output = os.pipe(), os.pipe(), os.pipe()

        def child() -> Never:
            try:
                _be_child(self._kind, self._scratch, self._filters, orders[0], frames[1], output[1])
            finally:
                os._exit(70)

        if self._kind == "apart":
            pid = apart.fork_apart(child)
        elif (pid := os.fork()) == 0:
            child()
        for descriptor in (orders[0], frames[1], output[1]):
            os.close(descriptor)
        return _Child(pid, orders[1], frames[0], output[0])

    def _run_step(self, child: _Child, message: dict[str, Any]) -> None:
        started = time.monotonic()
        write_order(child.orders, message)
        outcome = self._watch(child)
        outcome["seconds"] = time.monotonic() - started
        outcome["clean"] = self._clean_up(child.pid)
        self._relay_rest(child.output)
        child.close()
        self.send({"event": "done", **outcome})

    def _clean_up(self, pid: int) -> bool:
        """End whatever the step left behind; whether nothing of it is left."""
        if self._kind == "bare":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            return True
        clean = _kill_others()
        return clean and (self._kind == "apart" or _wipe_scratch())

    def _watch(self, child: _Child) -> dict[str, Any]:
        """Relay the child's frames and output until it ends; its last `result` frame, or how it died."""
        frames = FrameReader(_CHILD_FRAME_BYTES)
        result: dict[str, Any] | None = None
        relayed, cancelled = 0, False
        process = os.pidfd_open(child.pid)
        sources = {child.frames, child.output}
        last_beat = 0.0
        try:
            while True:
                if time.monotonic() - last_beat >= _HEARTBEAT_S:
                    self.send({"event": "heartbeat"})
                    last_beat = time.monotonic()
                ready, _, _ = select.select([process, self._down.fileno(), *sources], [], [], _HEARTBEAT_S)
                if self._down.fileno() in ready:
                    order = read_frame(self._down)
                    cancelled = True
                    os.kill(child.pid, signal.SIGKILL)
                    if order is None:
                        os._exit(0)
                for source in sources.intersection(ready):
                    data = os.read(source, 1 << 16)
                    if not data:
                        sources.discard(source)
                    elif source == child.output:
                        _print(data)
                    else:
                        for frame in _child_frames(frames, data):
                            if frame.get("event") == "result":
                                result = frame
                            elif relayed < _MAX_CHILD_FRAMES:
                                relayed += 1
                                self.send({"event": "progress", "data": frame})
                if process in ready and child.frames not in ready:
                    break
        finally:
            os.close(process)
        _, status = os.waitpid(child.pid, 0)
        return _outcome(status, result, cancelled)

    def _relay_rest(self, output: int) -> None:
        """What the step printed last. In a bare worker a process that escaped may hold the pipe open: nobody waits."""
        while select.select([output], [], [], 0)[0] and (data := os.read(output, 1 << 16)):
            _print(data)


def _print(data: bytes) -> None:
    while data:
        data = data[os.write(2, data) :]


def write_order(descriptor: int, message: dict[str, Any]) -> None:
    """One frame into a pipe whose reader may be dead, which then shows by itself."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(descriptor), "wb") as pipe:
        write_frame(pipe, message)


def read_all(descriptor: int) -> bytes:
    """Everything until the last writer has closed."""
    with os.fdopen(os.dup(descriptor), "rb") as pipe:
        return pipe.read()


def _child_frames(frames: FrameReader, data: bytes) -> list[dict[str, Any]]:
    try:
        return [frame for frame in frames.feed(data) if isinstance(frame, dict)]
    except WireError:
        return []


def _outcome(status: int, result: dict[str, Any] | None, cancelled: bool) -> dict[str, Any]:
    if cancelled:
        return {"status": "cancelled", "error": "", "metrics": {}}
    if os.WIFSIGNALED(status):
        return {"status": "signal", "error": f"killed by signal {os.WTERMSIG(status)}", "metrics": {}}
    if result is None:
        code = os.WEXITSTATUS(status)
        return {"status": "crashed", "error": f"exited with code {code} without a result", "metrics": {}}
    ok = result.get("ok") is True and os.WEXITSTATUS(status) == 0
    metrics = result.get("metrics")
    return {
        "status": "ok" if ok else "error",
        "error": str(result.get("error", ""))[:4000],
        "metrics": metrics if isinstance(metrics, dict) else {},
    }


@dataclass(frozen=True, slots=True)
class _Filters:
    """Compiled system-call filters of an apart child: for foreign code, and for the library's."""

    foreign: bytes = b""
    library: bytes = b""


def _be_child(
    kind: Kind, scratch: Mapping[str, int], filters: _Filters, orders: int, frames: int, output: int
) -> Never:
    """The forked child: wait for the order, run the entry, report, leave without running the parent's exit handlers."""
    from gpu_pool.child.entries import is_foreign, run_entry

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    apart.close_others({0, 1, 2, orders, frames})
    try:
        if kind == "apart":
            apart.settle(scratch)
        else:
            os.setsid()
        with os.fdopen(orders, "rb", buffering=0) as pipe:
            message = read_frame(cast("BinaryIO", pipe))
        if message is None:
            os._exit(0)
        if kind == "apart":
            if not message.get("trial"):
                apart.show(str(message["out"]), _OUT)
                message["out"] = _OUT
            apart.give_up(filters.foreign if is_foreign(message) else filters.library)
    except OSError as error:
        os.write(2, f"a step's own namespaces: {error}\n".encode(errors="replace"))
        os._exit(71)
    if message.get("trial"):
        os._exit(0)
    code = 1
    with os.fdopen(frames, "wb") as up:
        result = run_entry(message, lambda frame: write_frame(up, frame, _CHILD_FRAME_BYTES))
        with contextlib.suppress(OSError, WireError):
            write_frame(up, result, _CHILD_FRAME_BYTES)
        code = 0 if result["ok"] else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(kind: Kind = "contained", scratch: Mapping[str, int] | None = None) -> None:
    """Set up descriptors and threads, import what steps need, serve. `scratch` as in `Zygote`."""
    down = cast("BinaryIO", os.fdopen(os.dup(0), "rb", buffering=0))
    up = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    apart.set_dumpable(False)

    import torch

    torch.set_num_threads(1)
    import gpu_pool.weak_to_strong.entrypoints  # noqa: F401  # the warm import is the point
    from cluster.sandbox.seccomp import prepare_deny_exec, program
    from gpu_pool.weak_to_strong.warm import warm_up

    prepare_deny_exec()
    warm_up()
    filters = _Filters(program(no_exec=True), program()) if kind == "apart" else _Filters()
    Zygote(down, up, kind, scratch or {}, filters).serve()
