"""A running sandbox: starting it, watching it, and ending it with everything it started.

Promises:
- `spawn` may be called from any thread. No Python runs between fork and exec, and the forking thread is one that lives
  as long as this process: a parent-death signal is tied to the thread, and no sandbox may die with a worker thread.
- When `kill`, `wait` or a `poll` that is not None has returned, no process of the sandbox is alive and its control
  group is gone. The kernel ends a pid namespace with its first process, and that one is waited for through a pidfd.
- When this process dies, however it dies, the sandbox dies with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from cluster.sandbox import command, seccomp
from cluster.sandbox.errors import SandboxError
from cluster.sandbox.launcher import Plan
from cluster.sandbox.limits import Group
from cluster.sandbox.spec import SandboxSpec
from cluster.sandbox.watch import MemoryWatch

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
_LAUNCHER = Path(__file__).with_name("launcher.py")
_START_SECONDS = 20.0
_END_SECONDS = 20.0
_spawner: tuple[int, ThreadPoolExecutor] | None = None
_spawner_lock = threading.Lock()


def _forking_thread() -> ThreadPoolExecutor:
    """The one thread of this process that forks; made again in a forked child, where threads are gone."""
    global _spawner
    with _spawner_lock:
        if _spawner is None or _spawner[0] != os.getpid():
            _spawner = (os.getpid(), ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-spawner"))
        return _spawner[1]


def find_bwrap() -> str | None:
    """The path of bubblewrap, or None."""
    return shutil.which("bwrap", path=os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin:/bin")


class Sandboxed:
    """One sandbox. Like `subprocess.Popen`, but it ends as a whole. Thread-safe."""

    def __init__(self, popen: subprocess.Popen[bytes], group: Group, info: int, spec: SandboxSpec) -> None:
        self._popen = popen
        self._group = group
        self._lock = threading.RLock()
        self._ended = False
        self._peak: int | None = None
        self._oom_kills = 0
        self._watch: MemoryWatch | None = None
        self.stdin: IO[bytes] | None = popen.stdin
        self.stdout: IO[bytes] | None = popen.stdout
        self.stderr: IO[bytes] | None = popen.stderr
        self._init: int | None = None
        try:
            self.init_pid = _read_info(info, time.monotonic() + _START_SECONDS)
            self._init = _open_init(self.init_pid, popen.pid)
        except SandboxError as error:
            self._popen.kill()
            _, stderr = self.communicate()
            raise SandboxError(f"{error} {stderr.decode(errors='replace').strip()}".strip()) from error
        finally:
            os.close(info)
        if not group.limits("memory"):
            self._watch = MemoryWatch(self._root_pid(), spec.limits.memory_bytes, self._kill_init)

    def _root_pid(self) -> int:
        """The process below which all others of the sandbox are."""
        return self.init_pid

    @property
    def pid(self) -> int:
        """The pid of bwrap's monitor: killing it, by whatever means, ends the sandbox."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The command's exit status (128 + n when signal n ended it, -9 or 137 after `kill`); None while it runs."""
        return self._popen.returncode if self._ended else None

    def poll(self) -> int | None:
        """The exit status if the command has ended (the rest of the sandbox is ended then, too), else None."""
        if self._popen.poll() is not None:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command, end the rest of the sandbox, return the exit status.

        Raises `subprocess.TimeoutExpired` after `timeout` seconds; the sandbox then still runs.
        """
        self._popen.wait(timeout)
        self._end()
        return self._popen.returncode

    def communicate(self, data: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Feed stdin, read stdout and stderr to their ends, wait. Output is not capped: for trusted commands only."""
        out, err = self._popen.communicate(data, timeout)
        self._end()
        return out or b"", err or b""

    def kill(self) -> None:
        """End every process of the sandbox now; returns when none is alive. Safe to repeat.

        Raises `SandboxError` when a process survives (one that hangs in the kernel).
        """
        self._kill_init()
        self._end_monitor()
        self._popen.wait()
        self._end()

    def _end_monitor(self) -> None:
        """Make sure that the process which was started ends."""
        self._popen.kill()

    def peak_memory(self) -> int | None:
        """Highest memory of the whole sandbox so far in bytes; with a control group its page cache counts, too."""
        with self._lock:
            if not self._ended:
                self._peak = self._watch.peak if self._watch else self._group.peak_memory()
            return self._peak

    def oom_kills(self) -> int:
        """How many processes were killed for exceeding the memory limit so far."""
        with self._lock:
            if not self._ended:
                self._oom_kills = self._watch.kills if self._watch else self._group.oom_kills()
            return self._oom_kills

    def oom_killed(self) -> bool:
        """Whether the memory limit has killed anything: says 'memory' where the exit status only says 'killed'."""
        return self.oom_kills() > 0

    def __enter__(self) -> Sandboxed:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _kill_init(self) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._init is not None:
                signal.pidfd_send_signal(self._init, signal.SIGKILL)

    def _end(self) -> None:
        """After the monitor's end: no process left, figures kept, group removed."""
        with self._lock:
            if self._ended:
                return
            deadline = time.monotonic() + _END_SECONDS
            self._kill_init()
            gone = self._init is None or bool(select.select([self._init], [], [], _END_SECONDS)[0])
            if not gone or not self._group.kill_all(deadline):
                raise SandboxError(f"processes of the sandbox {self.pid} survive SIGKILL")
            if self._watch is not None:
                self._watch.stop()
            self.peak_memory()
            self.oom_kills()
            self._ended = True
            self._group.remove()
            if self._init is not None:
                os.close(self._init)
                self._init = None


def _read_info(info: int, deadline: float) -> int:
    """The pid of the namespace's first process, from bwrap; a launcher that failed says why instead."""
    answer = b""
    while not (answer.startswith(b"{") and answer.rstrip().endswith(b"}")):
        if not select.select([info], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise SandboxError(f"the sandbox did not start within {_START_SECONDS:.0f} s")
        chunk = os.read(info, 4096)
        if not chunk:  # the launcher or bwrap gave up; only the launcher says why here
            raise SandboxError(answer.decode(errors="replace") or "bwrap ended before it made a sandbox")
        answer += chunk
    return int(json.loads(answer)["child-pid"])


def _open_init(pid: int, monitor: int) -> int | None:
    """A pidfd of the namespace's first process; None when it is dead already.

    The parent is checked after opening, so that a recycled pid is never taken for it.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        match = re.search(r"^PPid:\s*(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        match = None
    if match is None or int(match[1]) != monitor:
        os.close(descriptor)
        return None
    return descriptor


def start(
    plan: Plan, info: int, pass_fds: tuple[int, ...], streams: tuple[Any, Any, Any], program: Path = _LAUNCHER
) -> subprocess.Popen[bytes]:
    """Start a launcher with its plan, from the thread that forks."""
    plan_fd = os.memfd_create("plan", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(plan_fd), "wb") as file:
            file.write(command.encode_plan(plan))
        os.lseek(plan_fd, 0, os.SEEK_SET)
        argv = [sys.executable, "-I", "-S", "-B", str(program), str(plan_fd), str(info)]
        return _forking_thread().submit(
            subprocess.Popen, argv, stdin=streams[0], stdout=streams[1], stderr=streams[2], env={}, cwd="/",
            pass_fds=(plan_fd, info, *pass_fds), start_new_session=True, bufsize=0,
        ).result()  # fmt: skip
    finally:
        os.close(plan_fd)


def spawn(spec: SandboxSpec, stdin: int | IO[bytes] | None = PIPE, stdout: int | IO[bytes] | None = PIPE,
          stderr: int | IO[bytes] | None = PIPE) -> Sandboxed:  # fmt: skip
    """Start a sandbox and return when its namespaces exist (about 40 ms; the command itself may still be starting).

    `spec.pass_fds` stay open here; close them after the call. Pipes are unbuffered byte streams. A failure of bwrap
    after this point (a bind it cannot make) ends the sandbox with status 1 and a line on its stderr.
    Raises `SandboxError` when bubblewrap is missing or a step of the launcher fails.
    """
    bwrap = find_bwrap()
    if bwrap is None:
        raise SandboxError("bubblewrap (bwrap) is not installed")
    filter_ = seccomp.program(interfaces=spec.interfaces, nested=spec.nested)
    group = Group(spec.limits)
    read_end, write_end = os.pipe()
    try:
        plan = command.build_plan(spec, bwrap=bwrap, seccomp=filter_, enter=group.enter, memory=group.limits("memory"),
                                  pids=group.limits("pids"))  # fmt: skip
        popen = start(plan, write_end, spec.pass_fds, (stdin, stdout, stderr))
    except (OSError, RuntimeError, SandboxError) as error:  # RuntimeError: the interpreter is shutting down
        os.close(read_end)
        group.remove()
        raise SandboxError(f"the sandbox could not be started: {error}") from error
    finally:
        os.close(write_end)
    return Sandboxed(popen, group, read_end, spec)
