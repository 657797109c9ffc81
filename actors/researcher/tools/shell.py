"""Shell commands in a sandbox of their own: no network, no Ray, no key, no truth, only the workspace."""

from __future__ import annotations

import asyncio
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from actors.researcher.tools.base import Args, Context, Tool
from actors.researcher.tools.files import check_room
from cluster.errors import Reason, RefusedError
from cluster.sandbox import DEVNULL, MIB, Bind, Limits, Sandboxed, SandboxError, SandboxSpec, python_binds, spawn
from gpu_pool.cache import NodeCache
from gpu_pool.library import materialise

HEAD_BYTES = 12_000
TAIL_BYTES = 12_000
MAX_SECONDS = 600.0
_LIMITS = Limits(memory_bytes=1024 * MIB, processes=64, file_bytes=64 * MIB, open_files=256)


HOME = "/ws"
CWD_FILE = ".cwd"
MAX_CWD_BYTES = 4096
_SCRIPT = f"""cd -- "$1" 2>/dev/null || cd {HOME}
trap 'pwd > {HOME}/{CWD_FILE}' EXIT
eval "$2"
"""
"""Runs the command where the one before ended; folders outside the workspace last as long as one command."""


class BashArgs(Args):
    """Arguments of `bash`."""

    command: str = Field(min_length=1, max_length=20_000, description="one bash script")
    seconds: float = Field(60, gt=0, le=MAX_SECONDS, description="after which everything it started is killed")


class Bash(Tool[BashArgs]):
    """Run a command in the workspace, which is /ws; the task's public files are in /task, the library in /aar
    (python3 finds it).

    Costs wall time only; it has one CPU's share, 1 GiB and no GPU, so train in run_pilot. No network. The working
    directory stays for the next call, variables and processes do not. Returns exit_code (None when it ran past its
    time), the working directory, and stdout with stderr, of which a long output keeps its beginning and its end:
    send it to a file to see all of it. Refused: no sandbox on this machine, a full workspace.
    """

    name = "bash"
    repeatable = False
    arguments = BashArgs

    async def run(self, ctx: Context, args: BashArgs, key: str) -> dict[str, Any]:
        """See the class."""
        check_room(ctx.workspace)
        try:
            done = await asyncio.to_thread(_run, _spec(ctx, args.command, _folder(ctx)), args.seconds)
        except SandboxError as error:
            raise RefusedError(Reason.NO_SANDBOX, str(error)) from error
        return {**done, "cwd": _folder(ctx)}


def _folder(ctx: Context) -> str:
    """Where the last command ended. The file is the sandbox's own word: it goes nowhere but into the next sandbox."""
    try:
        return ctx.workspace.read_text(CWD_FILE, MAX_CWD_BYTES).strip() or HOME
    except RefusedError:
        return HOME


def _spec(ctx: Context, command: str, folder: str) -> SandboxSpec:
    library = materialise(NodeCache.of(ctx.config.pool).root)
    binds = [*python_binds(), Bind(str(library), "/aar")]
    if Path(ctx.public).is_dir():
        binds.append(Bind(str(Path(ctx.public).absolute()), "/task"))
    return SandboxSpec(
        argv=("/bin/bash", "-c", _SCRIPT, "bash", folder, command),
        ro_binds=tuple(binds),
        rw_binds=(Bind(str(ctx.workspace.root.absolute()), "/ws"),),
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": "/aar",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        uid=ctx.sandbox_uid,
        limits=_LIMITS,
    )


def _run(spec: SandboxSpec, seconds: float) -> dict[str, Any]:
    started = time.monotonic()
    with spawn(spec, stdin=DEVNULL, stderr=subprocess.STDOUT) as box:
        output, in_time = _collect(box, started + seconds)
        code = None
        if in_time:
            try:
                code = box.wait(max(0.1, started + seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = None
        box.kill()
        memory = box.oom_killed()
    return {
        "exit_code": code,
        "output": output.text(),
        "output_bytes": output.total,
        "seconds": round(time.monotonic() - started, 2),
        "timed_out": code is None,
        "out_of_memory": memory,
    }


class _Output:
    """The beginning and the end of a stream."""

    def __init__(self) -> None:
        self.total = 0
        self._head = bytearray()
        self._tail = bytearray()

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        del self._tail[:-TAIL_BYTES]

    def text(self) -> str:
        lost = self.total - len(self._head) - len(self._tail)
        middle = f"\n[... {lost} bytes left out ...]\n".encode() if lost else b""
        return (bytes(self._head) + middle + bytes(self._tail)).decode("utf-8", "replace")


def _collect(box: Sandboxed, deadline: float) -> tuple[_Output, bool]:
    """Read until the command's output ends or `deadline` (monotonic seconds); whether it ended in time.

    Output ends with the command itself, too: what it left running in the background does not keep the call open.
    """
    output = _Output()
    if box.stdout is None:
        return output, False
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([box.stdout], [], [], min(left, 0.5))
        if ready:
            data = box.stdout.read(1 << 16)
            if not data:
                return output, True
            output.feed(data)
        elif box.poll() is not None:
            return output, True
    return output, False
