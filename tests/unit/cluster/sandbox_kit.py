"""Shared by the sandbox's tests: small specs, and the skip for machines that have no sandbox."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
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
