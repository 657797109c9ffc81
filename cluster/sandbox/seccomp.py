"""System-call filters: what a sandboxed process may not even ask the kernel.

A deny list, not an allow list: numpy, torch, CUDA and subprocesses run unchanged, while calls that widen the kernel's
attack surface or cross process boundaries fail with EPERM. Namespaces are the boundary; this is the second one.

32-bit arguments are compared under a 32-bit mask or by an ordering that covers the upper half: the kernel ignores
those bits, and a filter that compares 64 of them can be passed by setting one (CVE-2019-10063).
"""

from __future__ import annotations

import errno
import functools
import os
from types import ModuleType
from typing import Any

from cluster.sandbox.errors import SandboxError

_DENIED = (
    # reading or steering other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    # keys outlive processes and namespaces
    "keyctl", "add_key", "request_key",
    # large or privileged kernel interfaces
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "fanotify_init",
    "lookup_dcookie", "quotactl", "quotactl_fd", "acct", "swapon", "swapoff", "syslog", "nfsservctl", "iopl", "ioperm",
    "modify_ldt", "vm86", "vm86old", "uselib", "ustat", "sysfs",
    # mounts and namespaces
    "mount", "umount", "umount2", "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig",
    "fsmount", "fspick", "pivot_root", "chroot", "setns", "unshare", "open_by_handle_at", "name_to_handle_at",
    # the machine itself
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module", "query_module",
    "reboot", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime", "sethostname", "setdomainname",
    "vhangup",
)  # fmt: skip

_NEWER = {  # numbers that every architecture shares, for a libseccomp older than the call
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "open_tree_attr": 467,
}  # fmt: skip
_UNKNOWN = -1
_NESTED = ("mount", "unshare")
"""What a trusted process needs that gives each of its children namespaces of its own; they deny it to themselves."""
_PERSISTENT = (
    "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv",
    "msgctl", "ipc", "mq_open", "mq_unlink",
)  # fmt: skip
"""IPC that outlives its maker; a namespace ends it, and where there is none nobody gets it."""
_OF_OTHERS = (
    ("prlimit64", 0), ("sched_setaffinity", 0), ("sched_setscheduler", 0), ("sched_setparam", 0),
    ("sched_setattr", 0), ("migrate_pages", 0), ("move_pages", 0), ("setpriority", 1), ("ioprio_set", 1),
)  # fmt: skip
"""Calls that change another process of the same user, and which argument names it: 0 is the caller itself."""
_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1
_NAMESPACE_FLAGS = (0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_ALLOWED_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET and AF_INET6: the network namespace has only its own loopback
_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


def _pyseccomp() -> ModuleType:
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise SandboxError(f"no seccomp filter can be built: {error}") from error
    module: ModuleType = pyseccomp
    return module


def _number(lib: ModuleType, name: str) -> int:
    number = int(lib.resolve_syscall(lib.Arch.NATIVE, name))
    return _NEWER.get(name, _UNKNOWN) if number == _UNKNOWN else number


def _deny(lib: ModuleType, filter_: Any, name: str, *args: Any, error: int = errno.EPERM) -> None:
    number = _number(lib, name)
    if number != _UNKNOWN:
        filter_.add_rule(lib.ERRNO(error), number, *args)


def _build(lib: ModuleType, no_exec: bool, interfaces: bool, shared: bool, nested: bool) -> Any:
    filter_ = lib.SyscallFilter(lib.ALLOW)
    for name in _DENIED:
        if not (nested and name in _NESTED):
            _deny(lib, filter_, name)
    for flag in _NAMESPACE_FLAGS:
        _deny(lib, filter_, "clone", lib.Arg(0, lib.MASKED_EQ, flag, flag))
    _deny(lib, filter_, "clone3", error=errno.ENOSYS)  # its flags lie in memory; libc falls back to clone
    _deny_families(lib, filter_, "socketpair", _ALLOWED_FAMILIES)
    _deny_families(lib, filter_, "socket", (*_ALLOWED_FAMILIES, _AF_NETLINK) if interfaces else _ALLOWED_FAMILIES)
    if interfaces:
        netlink = lib.Arg(0, lib.MASKED_EQ, 0xFFFFFFFF, _AF_NETLINK)
        _deny(lib, filter_, "socket", netlink, lib.Arg(2, lib.NE, _NETLINK_ROUTE))
    for request in (_TIOCSTI, _TIOCLINUX):
        _deny(lib, filter_, "ioctl", lib.Arg(1, lib.MASKED_EQ, 0xFFFFFFFF, request))
    if no_exec:
        _deny_exec(lib, filter_)
    if shared:
        _deny(lib, filter_, "socket")
        _deny_others(lib, filter_)
    return filter_


def _deny_others(lib: ModuleType, filter_: Any) -> None:
    """What reaches other processes of the user, or stays when the caller has ended."""
    for name in _PERSISTENT:
        _deny(lib, filter_, name)
    for name, argument in _OF_OTHERS:
        _deny(lib, filter_, name, lib.Arg(argument, lib.NE, 0))
    _deny(lib, filter_, "setpriority", lib.Arg(0, lib.NE, _PRIO_PROCESS))
    _deny(lib, filter_, "ioprio_set", lib.Arg(0, lib.NE, _IOPRIO_WHO_PROCESS))


def _deny_families(lib: ModuleType, filter_: Any, call: str, allowed: tuple[int, ...]) -> None:
    for family in range(max(allowed)):
        if family not in allowed:
            _deny(lib, filter_, call, lib.Arg(0, lib.MASKED_EQ, 0xFFFFFFFF, family))
    _deny(lib, filter_, call, lib.Arg(0, lib.GT, max(allowed)))


def _deny_exec(lib: ModuleType, filter_: Any) -> None:
    for name in ("execve", "execveat"):
        _deny(lib, filter_, name)


@functools.cache
def program(no_exec: bool = False, interfaces: bool = False, shared: bool = False, nested: bool = False) -> bytes:
    """The filter as BPF instructions of 8 bytes each for the native architecture; other ABIs are refused whole.

    With `interfaces` the network interfaces may be listed (route netlink, of the sandbox's own empty network).

    With `no_exec` also execve and execveat fail, which no sandbox can start under: it is for tests and for callers that
    load it later. With `shared`, for where there are no namespaces, no socket can be made (a socketpair can), nothing
    that outlives its maker, and no change to another process. With `nested` namespaces and mounts can be made: for a
    trusted command that gives each of its children its own and has them load the filter without `nested`.
    Raises `SandboxError` when libseccomp is missing.
    """
    lib = _pyseccomp()
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "w+b") as file:
        _build(lib, no_exec, interfaces, shared, nested).export_bpf(file)
        file.seek(0)
        return file.read()


def deny_exec() -> None:
    """Forbid this process, all its threads and its future children to execute another program, for good.

    For a process inside a sandbox that is about to run foreign code which needs no subprocess. The caller must have
    `no_new_privs` set or be privileged, as every process of a sandbox has. Importing the library runs `ldconfig` once,
    so a warm process calls `prepare_deny_exec()` ahead of need. Raises `SandboxError`.
    """
    lib = _pyseccomp()
    filter_ = lib.SyscallFilter(lib.ALLOW)
    filter_.set_attr(lib.Attr.CTL_TSYNC, 1)
    _deny_exec(lib, filter_)
    try:
        filter_.load()
    except OSError as error:
        raise SandboxError(f"cannot forbid execve: {error}") from error


def prepare_deny_exec() -> None:
    """Load what `deny_exec` needs, so that a later call starts no process. Raises `SandboxError`."""
    _pyseccomp()
