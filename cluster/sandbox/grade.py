"""What a sandbox on this machine is worth, measured by trying to get out of it.

A  every escape was stopped and control groups enforce memory and processes: records are verified.
B  every escape was stopped, but a limit on resources is weak (rlimits and sampling, no control groups): provisional.
C  something got out, or the probe could not run or proved nothing: no counted run may use this sandbox.

The probe runs in the caller's own sandbox (only its sizes are made small) and once outside as a control, in which the
escapes must succeed: a probe that is stopped everywhere measures nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.sandbox.availability import bwrap_version
from cluster.sandbox.decoys import decoys, processes_with, victim_alive
from cluster.sandbox.errors import SandboxError
from cluster.sandbox.limits import find_hierarchies
from cluster.sandbox.process import Sandboxed, spawn
from cluster.sandbox.spec import MIB, Limits, SandboxSpec

SpecFactory = Callable[[tuple[str, ...]], SandboxSpec]
"""Makes the caller's real spec around the given argv; the interpreter of this environment must be visible in it."""
Start = Callable[[SandboxSpec], Sandboxed]
"""Starts a sandbox: `process.spawn`, or `confined.confine`."""

_LIMITS = Limits(memory_bytes=192 * MIB, processes=64, file_bytes=4 * MIB, open_files=256)
_DISK = 8 * MIB
_SECONDS = 30.0
_MUST_ESCAPE = (
    "secret_file", "shm_file", "inherited_fd", "tcp_loopback", "unix_abstract", "unix_path", "ray_socket",
    "signal", "processes_visible", "daemon",
)  # fmt: skip
"""Rows in which the control must escape. The others a kernel or a container may refuse to everybody."""
_RESOURCES = ("control_group", "memory", "processes", "tmp_size", "shm_size", "file_size")


@dataclass(frozen=True, slots=True)
class Grade:
    """`rows[name]` is True where the sandbox held, `control[name]` where the unsandboxed control got through.

    `reason` says why the letter is not better; it is empty for an A.
    """

    letter: Literal["A", "B", "C"]
    rows: Mapping[str, bool]
    reason: str
    probe_hash: str
    bwrap_version: str
    kernel: str
    control: Mapping[str, bool] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for records and caches."""
        return {**dataclasses.asdict(self), "rows": dict(self.rows), "control": dict(self.control)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Grade:
        """Inverse of `to_dict`."""
        return cls(**data)


@functools.cache
def _source() -> str:
    return Path(__file__).with_name("probe.py").read_text()


@functools.cache
def _handover_source() -> str:
    return Path(__file__).with_name("handover.py").read_text()


def probe_hash() -> str:
    """SHA-256 (hex) of the sources of both probes."""
    return hashlib.sha256((_source() + _handover_source()).encode()).hexdigest()


def _command() -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-B", "-c", _source())


def _small(spec: SandboxSpec) -> SandboxSpec:
    """The caller's spec with sizes that are quick and harmless to exhaust."""
    cores = spec.limits.cores
    limits = dataclasses.replace(_LIMITS, cores=cores)
    return dataclasses.replace(spec, limits=limits, tmp_bytes=_DISK, shm_bytes=_DISK, pass_fds=())


def _line(description: Mapping[str, Any], mode: str) -> bytes:
    return json.dumps({**description, "mode": mode}).encode() + b"\n"


def _host_uid(sandbox: Sandboxed) -> int:
    """The uid of the sandbox's processes as the host sees it; 0 when it cannot be read."""
    try:
        status = Path(f"/proc/{sandbox.init_pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.split("\n") if line.startswith("Uid:")), 0)


def _answers(output: bytes) -> list[dict[str, Any]]:
    found = []
    for line in output.split(b"\n"):
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _kill_daemons(marker: str) -> bool:
    """End what outlived its run; True when there was something."""
    found = processes_with(marker)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if found:
        _dies(lambda: bool(processes_with(marker)), _SECONDS)
    return bool(found)


def _dies(alive: Callable[[], bool], seconds: float) -> bool:
    """Whether `alive` turns False in time; a signal takes effect a moment after it was sent."""
    deadline = time.monotonic() + seconds
    while alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _try_escapes(spec: SandboxSpec, description: Mapping[str, Any], start: Start) -> dict[str, bool]:
    """Rows (True: held) of the escapes from a sandbox. Raises `SandboxError` when the probe gives no answer."""
    with start(spec) as sandbox:
        uid = _host_uid(sandbox)
        try:
            out, err = sandbox.communicate(_line(description, "escapes"), _SECONDS)
        except subprocess.TimeoutExpired as error:
            raise SandboxError("the probe did not end") from error
    answers = _answers(out)
    if not answers:
        raise SandboxError(f"the probe gave no answer: {err.decode(errors='replace').strip()[-500:]}")
    rows = {name: not escaped for name, escaped in answers[0]["escaped"].items()}
    rows["signal"] = not _dies(lambda: victim_alive(description["victim"]), 0.1)
    rows["daemon"] = not _kill_daemons(description["daemon"])
    rows["host_uid"] = uid != 0
    return rows


def _control(description: Mapping[str, Any]) -> dict[str, bool]:
    """Rows (True: escaped) of the same probe outside. Raises `SandboxError` when it does not run."""
    try:
        done = subprocess.run(_command(), input=_line(description, "escapes"), capture_output=True, timeout=_SECONDS,
                              check=True, pass_fds=(description["fd"],))  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"the control run of the probe failed: {error}") from error
    rows: dict[str, bool] = {name: bool(escaped) for name, escaped in _answers(done.stdout)[0]["escaped"].items()}
    rows["signal"] = _dies(lambda: victim_alive(description["victim"]), 2.0)
    rows["daemon"] = _kill_daemons(description["daemon"])
    return rows


def _try_limits(spec: SandboxSpec, start: Start) -> dict[str, bool]:
    """Rows (True: the limit held) of processes, disk and memory."""
    over = spec.limits.memory_bytes * 6 // 5
    request = {"folders": ["/tmp", "/dev/shm", "/dev", "/"], "file_bytes": _LIMITS.file_bytes // 2,
               "disk_bytes": 2 * _DISK, "memory_bytes": over}  # fmt: skip
    with start(spec) as sandbox:
        try:
            out, _ = sandbox.communicate(_line(request, "limits"), _SECONDS)
        except subprocess.TimeoutExpired as error:
            raise SandboxError("the probe of limits did not end") from error
        killed = sandbox.oom_killed()
    answers = _answers(out)
    if not answers:
        raise SandboxError("the probe of limits gave no answer")
    sizes = answers[0]["folders"]
    reached = answers[1]["memory"] if len(answers) > 1 else 0
    controllers = {name for hierarchy in find_hierarchies() for name in hierarchy.controllers}
    return {
        "memory": killed or 0 < reached < over,
        "processes": answers[0]["processes"] <= spec.limits.processes,
        "tmp_size": sizes["/tmp"] <= _DISK,
        "shm_size": sizes["/dev/shm"] <= _DISK,
        "read_only_root": sizes["/dev"] == 0 and sizes["/"] == 0,
        "file_size": answers[0]["one_file"] <= _LIMITS.file_bytes,
        "control_group": {"memory", "pids"} <= controllers,
    }


def _try_handover(spec: SandboxSpec, start: Start) -> dict[str, bool]:
    """Rows (True: held) of what one sandbox leaves for the next one of the same user."""
    marker = f"aar-{secrets.token_hex(7)}"
    answers = []
    spec = dataclasses.replace(spec, argv=(sys.executable, "-I", "-S", "-B", "-c", _handover_source()))
    for mode in ("leave", "find"):
        with start(spec) as sandbox:
            try:
                out, err = sandbox.communicate(_line({"marker": marker}, mode), _SECONDS)
            except subprocess.TimeoutExpired as error:
                raise SandboxError("the probe of what is left behind did not end") from error
        answers += _answers(out)
    if len(answers) != 2 or not any(answers[0]["left"].values()):
        raise SandboxError(f"the probe of what is left behind: {err.decode(errors='replace').strip()[-500:]}")
    return {f"left_{name}": not found for name, found in answers[1]["found"].items()}


def _cache_key() -> dict[str, Any]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"boot": boot, "probe": probe_hash(), "uid": os.geteuid(), "python": sys.executable}


def _cached_control(cache: Path | None) -> dict[str, bool] | None:
    try:
        data = json.loads(cache.read_text()) if cache is not None else {}
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("key") != _cache_key():
        return None
    return {str(name): bool(value) for name, value in data["control"].items()}


def _keep_control(cache: Path | None, control: Mapping[str, bool]) -> None:
    """Write the cache whole; one that cannot be written only costs time."""
    if cache is not None:
        part = cache.with_name(f".{cache.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps({"key": _cache_key(), "control": control}))
            part.replace(cache)


def _letter(rows: Mapping[str, bool], control: Mapping[str, bool]) -> tuple[Literal["A", "B", "C"], str]:
    """The grade that these rows deserve, and why it is not better."""
    broken = [name for name in _MUST_ESCAPE if not control.get(name, False)]
    if broken:
        return "C", f"the probe proves nothing: its control was stopped at {', '.join(broken)}"
    escaped = [name for name, held in rows.items() if not held and name not in _RESOURCES]
    if escaped:
        return "C", f"got out: {', '.join(escaped)}"
    weak = [name for name in _RESOURCES if not rows.get(name, False)]
    return ("B", f"weak limits: {', '.join(weak)}") if weak else ("A", "")


def grade(spec_factory: SpecFactory, cache: Path | None = None, start: Start = spawn) -> Grade:
    """Probe the sandbox that `spec_factory` describes. Takes about a second; never raises for what it finds.

    What `start` is other than `spawn` has no namespaces, and is a B at most.

    `cache` keeps the control's rows (they hold for one boot, user, interpreter and probe), so that only the first call
    runs it. A sandbox that cannot be started, or a probe without an answer, is a C.
    """
    rows: dict[str, bool] = {}
    control = _cached_control(cache)
    try:
        spec = _small(spec_factory(_command()))
        with decoys(spec.uid) as description:
            rows = _try_escapes(spec, description, start)
            if control is None:
                control = _control(description)
                _keep_control(cache, control)
        rows |= _try_handover(spec, start)
        rows |= _try_limits(spec, start)
        letter, reason = _letter(rows, control)
        if letter == "A" and start is not spawn:
            letter, reason = "B", "no namespaces"
    except (SandboxError, OSError, subprocess.SubprocessError) as error:
        letter, reason = "C", str(error)
    return Grade(letter, rows, reason, probe_hash(), bwrap_version(), platform.release(), control or {})
