"""A sandbox without namespaces, as a program of its own: `python -I -S -B confine.py PLAN_FD INFO_FD`.

For machines that allow no user namespaces. This process stays outside and supervises: it starts the command confined by
Landlock (files), by a system-call filter (no sockets at all) and by rlimits; whatever the command leaves behind becomes
its child, and it kills all of them when the command ends, when it gets SIGTERM, or when its own parent dies.
It writes the command's pid to INFO_FD as bwrap would, or one line of text when a step fails, and exits 125.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING or __name__ != "__main__":
    from cluster.sandbox import launcher
else:  # as a program it has its own directory alone
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 (pathlib: 10 ms)
    import launcher

_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_NET = 3
_SCOPED_SOCKET, _SCOPED_SIGNAL = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _SECCOMP_MODE_FILTER = 1, 22, 36, 2
LEAST_ABI = 6
"""From this version on (Linux 6.12) signals to processes outside are stopped, too."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_void_p))


def landlock_abi() -> int:
    """The version of Landlock that the kernel offers; 0 for none."""
    return max(0, int(_libc.syscall(_SYS_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)))


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Let the domain use what lies at and below `path`; a path that is not there allows nothing."""
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    rights &= -1 if stat.S_ISDIR(os.fstat(parent).st_mode) else _FILE_RIGHTS
    rule = _PathBeneath(rights, parent)
    launcher.check(
        _libc.syscall(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0), f"Landlock rule for {path}"
    )
    os.close(parent)


def restrict(readable: list[str], writable: list[str], devices: list[str]) -> None:
    """Confine this process and all that it starts: nothing but these paths, no TCP, no signals and sockets outside."""
    every = (1 << 16) - 1
    attributes = _Ruleset(every, _NET, _SCOPED_SOCKET | _SCOPED_SIGNAL)
    ruleset = int(_libc.syscall(_SYS_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(24), 0))
    launcher.check(ruleset, "Landlock ruleset")
    for path in readable:
        _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(ruleset, path, every & ~(_MAKE_CHAR | _MAKE_BLOCK))
    for path in devices:
        _allow(ruleset, path, _READ_FILE | _WRITE_FILE | _IOCTL_DEV)
    launcher.check(_libc.syscall(_SYS_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _filter(program: bytes) -> None:
    """Load a compiled system-call filter."""
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = _Filter(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    launcher.check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0), "seccomp filter")


def _execute(command: list[str], environment: dict[str, str]) -> None:
    """As `os.execvpe`, which would import a module that cannot be read any more."""
    name = command[0]
    places = [name] if "/" in name else [f"{folder}/{name}" for folder in environment["PATH"].split(":")]
    for place in places[:-1]:
        with contextlib.suppress(FileNotFoundError):
            os.execve(place, command, environment)
    os.execve(places[-1], command, environment)


def _become(plan: launcher.Plan, parent: int) -> None:
    """Give up everything and become the command. Returns never."""
    try:
        os.setsid()
        os.umask(0o022)
        uid = int(plan["uid"][0]) if plan["uid"] else None
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_, signal.SIG_DFL)
        launcher.limit(plan["rlimits"])
        launcher.drop(uid, parent)
        os.chdir(plan["chdir"][0])
        restrict(plan["readable"], plan["writable"], plan["devices"])
        _filter(bytes.fromhex(plan["seccomp"][0]))
        environment = dict(zip(plan["env"][::2], plan["env"][1::2], strict=True))
        _execute(plan["command"], environment)
    except (launcher.LaunchError, OSError) as error:
        os.write(2, f"confined command: {error}\n".encode(errors="replace"))
    os._exit(125)


def _below(root: int) -> list[int]:
    """The living descendants of `root`: a table of parents, walked down."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                parents.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(entry))
    found, queue = [], [root]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _kill_all() -> None:
    """Kill and reap until nothing is left below this process."""
    while below := _below(os.getpid()):
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)


def _supervise(child: int) -> int:
    """Reap until the command has ended; its exit status as a shell would say it."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _stop(_number: int, _frame: object) -> None:
    _kill_all()
    os._exit(137)


def main() -> int:
    """Read the plan, start the command, supervise it, leave nothing behind."""
    plan_fd, info = int(sys.argv[1]), int(sys.argv[2])
    with os.fdopen(plan_fd, "rb") as file:
        plan = launcher.read_plan(file.read())
    try:
        if landlock_abi() < LEAST_ABI:
            raise launcher.LaunchError(f"this kernel offers Landlock {landlock_abi()}, {LEAST_ABI} is needed")
        info = launcher.place_descriptors([int(fd) for fd in plan["fds"]], info)
        launcher.enter_groups(plan["enter"])
        launcher.check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
        launcher.check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "parent death signal")
        if os.getppid() != int(plan["parent"][0]):
            raise launcher.LaunchError("the parent died before the sandbox started")
        signal.signal(signal.SIGTERM, _stop)
    except (launcher.LaunchError, OSError) as error:
        os.write(info, str(error).encode(errors="replace"))
        return 125
    own = os.getpid()
    os.set_inheritable(info, False)
    child = os.fork()
    if child == 0:
        _become(plan, own)
    os.write(info, b'{"child-pid": %d}' % child)
    os.close(info)
    for stream in (0, 1, *range(3, 3 + len(plan["fds"]))):
        os.close(stream)
    code = _supervise(child)
    _kill_all()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
