"""Shared by the sandbox's tests: small specs, and the skip for machines that have no sandbox."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.sandbox import MIB, Limits, Sandboxed, SandboxSpec, available, python_binds, spawn

_STATE = available()
needs_sandbox = pytest.mark.skipif(not _STATE.ok, reason=f"{_STATE.reason}; {_STATE.remedy}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take on another uid")
SMALL = Limits(memory_bytes=192 * MIB, processes=48, file_bytes=16 * MIB, open_files=128)


def python_spec(program: str, *words: str, **fields: Any) -> SandboxSpec:
    """A sandbox that runs a Python program given as text."""
    binds = python_binds() + tuple(fields.pop("ro_binds", ()))
    argv = (sys.executable, "-I", "-S", "-B", "-c", program, *words)
    return SandboxSpec(argv=argv, ro_binds=binds, limits=fields.pop("limits", SMALL), **fields)


def shell_spec(program: str, *words: str, **fields: Any) -> SandboxSpec:
    """A sandbox that runs a shell script given as text."""
    return SandboxSpec(argv=("sh", "-c", program, "sh", *words), limits=fields.pop("limits", SMALL), **fields)


def run(spec: SandboxSpec, data: bytes | None = None) -> tuple[int, str, str]:
    """Run to the end: status, stdout, stderr."""
    with spawn(spec) as sandbox:
        out, err = sandbox.communicate(data, timeout=20)
        return sandbox.wait(), out.decode(), err.decode()


def as_nobody(program: str, *words: str, timeout: float) -> dict[str, Any]:
    """What a Python program prints, as JSON, when uid 65534 runs it; {folder} in `words` is a folder that it may write.

    The interpreter is where a private mount puts it: nobody can reach root's own.
    """
    with tempfile.TemporaryDirectory(prefix="aar-nobody-", dir="/tmp") as name:
        folder = Path(name)
        shutil.copytree(Path(__file__).parents[3] / "cluster", folder / "cluster")
        shutil.copy(Path(sysconfig.get_path("purelib")) / "pyseccomp.py", folder)
        folder.chmod(0o777)
        interpreter = Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve())
        script = (
            'base="$1"; shift; mount --bind "$base" /mnt && cd / && '
            'exec setpriv --reuid 65534 --regid 65534 --clear-groups env -i "$@"'
        )
        own = [word.format(folder=folder) for word in words]
        argv = [f"PYTHONPATH={folder}", "PATH=/usr/bin:/bin", f"/mnt/{interpreter}", "-B", "-c", program, *own]
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", sys.base_prefix, *argv],
                              capture_output=True, text=True, check=False, timeout=timeout)  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def marker() -> str:
    """A word that no other process has in its command line."""
    return f"sandbox-test-{secrets.token_hex(8)}"


def read_line(sandbox: Sandboxed) -> str:
    """The next line of the sandbox's stdout."""
    assert sandbox.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        byte = sandbox.stdout.read(1)
        if not byte:
            break
        line += byte
    return line.decode().strip()


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether `holds` becomes true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
