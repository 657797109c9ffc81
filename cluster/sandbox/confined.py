"""The fallback where no user namespaces can be made: Landlock, a system-call filter without sockets, rlimits.

The same contract as `process.spawn`, with what namespaces alone could give left out:
- There is no other view of the file system: every bind must stand inside where it lies on the host, and instead of
  /tmp, /ws and /dev/shm there is one private scratch directory (HOME and TMPDIR). Nothing outside can be read or
  written; that a path exists can be seen.
- Everything runs under the host's process numbers: they can be neither listed nor signalled, and what the command left
  behind is killed by a supervisor. A supervisor that is itself killed with SIGKILL leaves daemons behind.
- Memory and processes are bounded by control groups where there are any, else by rlimits and sampling.
So a sandbox of this kind is graded B at most.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from cluster.sandbox import seccomp
from cluster.sandbox.command import address_limit, environment
from cluster.sandbox.confine import LEAST_ABI, landlock_abi
from cluster.sandbox.errors import SandboxError, SpecError
from cluster.sandbox.gpu import gpu_devices
from cluster.sandbox.launcher import Plan
from cluster.sandbox.limits import Group
from cluster.sandbox.process import PIPE, Sandboxed, start
from cluster.sandbox.spec import SandboxSpec
from cluster.trees import remove_tree

_PROGRAM = Path(__file__).with_name("confine.py")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/alternatives")
_KERNEL = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self", "/proc/sys/vm/overcommit_memory")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_PATIENCE_S = 20.0


def confinable() -> bool:
    """Whether this kernel can confine a process well enough (Landlock 6, Linux 6.12)."""
    return landlock_abi() >= LEAST_ABI


class Confined(Sandboxed):
    """A confined command and its supervisor."""

    def __init__(
        self, popen: subprocess.Popen[bytes], group: Group, info: int, spec: SandboxSpec, scratch: Path
    ) -> None:
        self._scratch = scratch
        super().__init__(popen, group, info, spec)

    def _root_pid(self) -> int:
        return self._popen.pid

    def _end_monitor(self) -> None:
        """The supervisor kills what is left and ends by itself; only one that hangs is killed."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_PATIENCE_S)
        self._popen.kill()

    def _end(self) -> None:
        super()._end()
        remove_tree(self._scratch)


def _plan(spec: SandboxSpec, group: Group, scratch: Path) -> Plan:
    moved = [bind for bind in (*spec.ro_binds, *spec.rw_binds) if bind.host != bind.inside]
    if moved:
        raise SpecError(f"without namespaces {moved[0].host!r} cannot be seen at {moved[0].inside!r}")
    needed, maybe = gpu_devices(spec.gpus)
    home = {name: str(scratch) for name in ("HOME", "TMPDIR")}
    env = {**environment(spec), **home, **spec.env}
    limits = spec.limits
    rlimits = {"CORE": 0, "FSIZE": limits.file_bytes, "NOFILE": limits.open_files}
    if not group.limits("memory") and not spec.gpus:
        rlimits["AS"] = address_limit(limits)
    if not group.limits("pids") and os.geteuid() == 0:
        rlimits["NPROC"] = limits.processes  # counts all processes of the uid, which a user's own would share
    return {
        "parent": [str(os.getpid())],
        "uid": [str(spec.uid)] if os.geteuid() == 0 else [],
        "readable": [*_SYSTEM, *_KERNEL, *(["/sys"] if spec.gpus else []), *(bind.host for bind in spec.ro_binds)],
        "writable": [str(scratch), *(bind.host for bind in spec.rw_binds)],
        "devices": [*_DEVICES, *needed, *maybe],
        "command": list(spec.argv),
        "chdir": [str(scratch) if spec.chdir == "/ws" else spec.chdir],
        "env": [word for pair in env.items() for word in pair],
        "enter": list(group.enter),
        "rlimits": [str(word) for pair in rlimits.items() for word in pair],
        "fds": [str(fd) for fd in spec.pass_fds],
        "seccomp": [seccomp.program(shared=True).hex()],
    }


def _own(uid: int, *folders: str) -> None:
    """Hand writable directories to the sandbox's uid, as the launcher of the other kind does."""
    if os.geteuid() == 0:
        for folder in folders:
            os.chown(folder, uid, uid, follow_symlinks=False)


def confine(spec: SandboxSpec, stdin: int | IO[bytes] | None = PIPE, stdout: int | IO[bytes] | None = PIPE,
            stderr: int | IO[bytes] | None = PIPE) -> Confined:  # fmt: skip
    """Start a confined command; as `process.spawn`. Raises `SpecError` for a bind that would have to move."""
    scratch = Path(tempfile.mkdtemp(prefix="aar-confined-"))
    group = Group(spec.limits)
    read_end, write_end = os.pipe()
    try:
        plan = _plan(spec, group, scratch)
        _own(spec.uid, str(scratch), *(bind.host for bind in spec.rw_binds))
        popen = start(plan, write_end, spec.pass_fds, (stdin, stdout, stderr), _PROGRAM)
    except (OSError, RuntimeError, SandboxError) as error:
        os.close(read_end)
        group.remove()
        remove_tree(scratch)
        if isinstance(error, SpecError):
            raise
        raise SandboxError(f"the sandbox could not be started: {error}") from error
    finally:
        os.close(write_end)
    return Confined(popen, group, read_end, spec, scratch)
