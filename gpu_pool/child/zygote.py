"""The warm process of a lane: imports torch once, then forks one child per step.

Runs inside a bubblewrap sandbox. Frames come on the descriptor that was stdin and leave on the one that was stdout;
both are closed in a child before any foreign code runs, and this process is not dumpable, so that a child of the same
uid can neither read its memory nor its descriptors.

Where no namespaces can be had, the same process runs uncontained by them: then only the step's own process group is
ended and nothing is wiped, and the grade of its results says so.

Promises (contained):
- One step at a time. When `done` is sent, no other process of this PID namespace is alive and `/tmp`, `/ws` and
  `/dev/shm` are empty.
- A heartbeat leaves every second while a step runs.
- A `cancel` frame ends the step as `cancelled`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

from cluster.wire import FrameReader, WireError, read_frame, write_frame

_PR_SET_DUMPABLE = 4
_HEARTBEAT_S = 1.0
_CHILD_FRAME_BYTES = 1 << 16
_MAX_CHILD_FRAMES = 2000
"""Progress frames relayed per step; a method that logs more is heard no further."""
_SCRATCH = (Path("/tmp"), Path("/ws"), Path("/dev/shm"))


def _set_undumpable() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


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


def _wipe_scratch() -> None:
    for place in _SCRATCH:
        if not place.is_dir():
            continue
        for entry in place.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()


class Zygote:
    """Reads step frames, forks, relays, cleans up."""

    def __init__(self, down: BinaryIO, up: BinaryIO, contained: bool) -> None:
        self._down = down
        self._up = up
        self._contained = contained

    def send(self, message: dict[str, Any]) -> None:
        """One frame to the slot."""
        write_frame(self._up, message)

    def serve(self) -> None:
        """Serve steps until the slot closes the pipe."""
        self.send({"event": "ready", "pid": os.getpid()})
        while (message := read_frame(self._down)) is not None:
            if message.get("op") == "step":
                self._run_step(message)

    def _run_step(self, message: dict[str, Any]) -> None:
        reader, writer = os.pipe()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            if not self._contained:
                os.setpgid(0, 0)
            os.close(reader)
            self._down.close()
            self._up.close()
            _run_child(writer, message)
        os.close(writer)
        outcome = self._watch(pid, reader)
        os.close(reader)
        outcome["seconds"] = time.monotonic() - started
        outcome["clean"] = self._clean_up(pid)
        self.send({"event": "done", **outcome})

    def _clean_up(self, pid: int) -> bool:
        """End whatever the step left behind; whether nothing of it is alive."""
        if not self._contained:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            return True
        clean = _kill_others()
        _wipe_scratch()
        return clean

    def _watch(self, pid: int, reader: int) -> dict[str, Any]:
        """Relay the child's frames until it ends; its last `result` frame, or how it died."""
        frames = FrameReader(_CHILD_FRAME_BYTES)
        result: dict[str, Any] | None = None
        relayed, cancelled, open_pipe = 0, False, True
        child = os.pidfd_open(pid)
        last_beat = 0.0
        try:
            while True:
                if time.monotonic() - last_beat >= _HEARTBEAT_S:
                    self.send({"event": "heartbeat"})
                    last_beat = time.monotonic()
                watched = [child, self._down.fileno()] + ([reader] if open_pipe else [])
                ready, _, _ = select.select(watched, [], [], _HEARTBEAT_S)
                if reader in ready:
                    data = os.read(reader, 1 << 16)
                    open_pipe = bool(data)
                    for frame in _child_frames(frames, data):
                        if frame.get("event") == "result":
                            result = frame
                        elif relayed < _MAX_CHILD_FRAMES:
                            relayed += 1
                            self.send({"event": "progress", "data": frame})
                    continue
                if self._down.fileno() in ready:
                    order = read_frame(self._down)
                    cancelled = True
                    os.kill(pid, signal.SIGKILL)
                    if order is None:
                        os._exit(0)
                if child in ready:
                    break
        finally:
            os.close(child)
        _, status = os.waitpid(pid, 0)
        return _outcome(status, result, cancelled)


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


def _run_child(writer: int, message: dict[str, Any]) -> None:
    """The forked child: run the entry, report, leave without running the parent's exit handlers."""
    from gpu_pool.child.entries import run_entry

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 1
    with os.fdopen(writer, "wb") as pipe:
        result = run_entry(message, lambda frame: write_frame(pipe, frame, _CHILD_FRAME_BYTES))
        with contextlib.suppress(OSError, WireError):
            write_frame(pipe, result, _CHILD_FRAME_BYTES)
        code = 0 if result["ok"] else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(contained: bool = True) -> None:
    """Set up descriptors and threads, import what steps need, serve."""
    down = cast("BinaryIO", os.fdopen(os.dup(0), "rb", buffering=0))
    up = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    _set_undumpable()

    import torch

    torch.set_num_threads(1)
    import gpu_pool.weak_to_strong.entrypoints  # noqa: F401  # the warm import is the point
    from cluster.sandbox.seccomp import prepare_deny_exec
    from gpu_pool.weak_to_strong.warm import warm_up

    prepare_deny_exec()
    warm_up()
    Zygote(down, up, contained).serve()
