"""The last trusted steps before bwrap, as a program of its own: `python -I -S -B launcher.py PLAN_FD INFO_FD`.

A stand-alone program, because between fork and exec of a threaded parent no Python may run. It reads a plan (made by
`command.build_plan`), joins cgroups, puts the bind sources where an unprivileged uid can reach them, gives up
privileges for good, and becomes bwrap: the pid that the parent started is bwrap's monitor.
When a step fails it writes one line of text to INFO_FD, where bwrap would have written its child's pid, and exits 125.

Every import is paid at each start of a sandbox, so there are few: json alone (with re and enum) would double the time.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import stat
import sys

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 38, 9
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
_FAILED = 125

_libc = ctypes.CDLL(None, use_errno=True)


Plan = dict[str, list[str]]
"""Named lists of words; `command.build_plan` says what they mean."""


class LaunchError(Exception):
    """A step that failed, in words for the parent."""


def read_plan(data: bytes) -> Plan:
    """Decode NUL-terminated words: a name, the number of its values, the values, the next name, and so on."""
    words = data.decode(errors="surrogateescape").split("\0")[:-1]
    plan: Plan = {}
    at = 0
    while at < len(words):
        name, count = words[at], int(words[at + 1])
        plan[name] = words[at + 2 : at + 2 + count]
        at += 2 + count
    return plan


def check(result: int, step: str) -> None:
    """Raise `LaunchError` for a C call that failed."""
    if result < 0:
        raise LaunchError(f"{step}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    check(_libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), f"mount on {target}")


def _open_source(path: str, writable: bool, uid: int | None) -> int:
    """A descriptor of a bind source that the uid may use.

    A read-write one must be a directory, not a link, and is handed to the uid.
    """
    flags = os.O_PATH | os.O_CLOEXEC | ((os.O_NOFOLLOW | os.O_DIRECTORY) if writable else 0)
    try:
        descriptor = os.open(path, flags)
        found = os.fstat(descriptor)
        if writable and uid is not None and found.st_uid != uid:
            os.chown(f"/proc/self/fd/{descriptor}", uid, uid)
    except OSError as error:
        raise LaunchError(f"bind source {path}: {error.strerror}") from error
    needed = stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH
    if not writable and uid not in (None, found.st_uid) and not found.st_mode & needed:
        use = "enter" if stat.S_ISDIR(found.st_mode) else "read"
        raise LaunchError(f"bind source {path}: uid {uid} may not {use} it (mode {stat.S_IMODE(found.st_mode):04o})")
    return descriptor


def _stage(readable: list[str], writable: list[str], uid: int | None, stages: list[str]) -> list[str]:
    """Paths from which an unprivileged bwrap can bind the sources, in the given order.

    As root they are bound below a private tmpfs in a private mount namespace: a source under a directory that only root
    can enter (an interpreter below /root) becomes reachable, and nobody else sees the tmpfs. Without the right to make
    a mount namespace the sources are used as they lie.
    """
    private = uid is not None and bool(stages) and _libc.unshare(_CLONE_NEWNS) == 0
    opened = [_open_source(path, False, uid) for path in readable]
    opened += [_open_source(path, True, uid) for path in writable]
    if not private:
        for descriptor in opened:
            os.close(descriptor)
        return readable + writable
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    stage = stages[0]
    _mount("none", stage, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "mode=0711,size=1m")
    places = []
    for index, descriptor in enumerate(opened):
        place = f"{stage}/{index}"
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.mkdir(place, 0o711)  # noqa: PTH102 (pathlib is an import of 10 ms)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _mount(f"/proc/self/fd/{descriptor}", place, None, _MS_BIND | _MS_REC)
        os.close(descriptor)
        places.append(place)
    return places


def enter_groups(paths: list[str]) -> None:
    """Join control groups by their `cgroup.procs` files."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            os.write(descriptor, str(os.getpid()).encode())
            os.close(descriptor)
        except OSError as error:
            raise LaunchError(f"cannot join {path}: {error.strerror}") from error


def limit(rlimits: list[str]) -> None:
    """Set rlimits (name, value, name, ...), none above its hard limit."""
    for name, text in zip(rlimits[::2], rlimits[1::2], strict=True):
        value = int(text)
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def drop(uid: int | None, parent: int) -> None:
    """Own session keyring, no groups, the sandbox's uid, no new privileges, and an end together with the parent."""
    keyctl = _SYS_KEYCTL.get(os.uname().machine)
    if keyctl is not None:  # a kernel without keys has nothing to leave behind
        _libc.syscall(keyctl, _KEYCTL_JOIN_SESSION_KEYRING, None)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "parent death signal")
    if os.getppid() != parent:
        raise LaunchError("the parent died before the sandbox started")


def _memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("launcher", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def place_descriptors(wanted: list[int], info: int) -> int:
    """Move `wanted[i]` to descriptor 3 + i and return where `info` is now."""
    base = 3 + len(wanted)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, max(base, 16)) for fd in [*wanted, info]]
    for fd in {*wanted, info}:
        os.close(fd)
    for index, fd in enumerate(moved[:-1]):
        os.dup2(fd, 3 + index, inheritable=True)
        os.close(fd)
    return moved[-1]


def launch(plan: Plan, info: int) -> None:
    """Become bwrap. Returns never; raises `LaunchError` or `OSError`."""
    os.umask(0o022)
    uid = int(plan["uid"][0]) if plan["uid"] else None
    enter_groups(plan["enter"])
    args = list(plan["args"])
    places = _stage(plan["readable"], plan["writable"], uid, plan["stages"])
    for place, index in zip(places, plan["source_args"], strict=True):
        args[int(index)] = place
    seccomp = _memory_file(bytes.fromhex(plan["seccomp"][0]))
    args += ["--seccomp", str(seccomp), "--info-fd", str(info)]
    words = _memory_file(b"".join(os.fsencode(word) + b"\0" for word in args))
    limit(plan["rlimits"])
    drop(uid, int(plan["parent"][0]))
    # the arguments go by descriptor: the command line of pid 1 is readable inside the sandbox and would name host paths
    os.execve(plan["bwrap"][0], ["bwrap", "--args", str(words), "--", *plan["command"]], {})


def main() -> int:
    """Read the plan and launch; report a failure where the parent waits for bwrap's answer."""
    plan_fd, info = int(sys.argv[1]), int(sys.argv[2])
    with os.fdopen(plan_fd, "rb") as file:
        plan = read_plan(file.read())
    info = place_descriptors([int(fd) for fd in plan["fds"]], info)
    try:
        launch(plan, info)
    except (LaunchError, OSError) as error:
        os.write(info, str(error).encode(errors="replace"))
    return _FAILED


if __name__ == "__main__":
    sys.exit(main())
