"""A step's own namespaces: processes, files, IPC, network and users that begin and end with it.

A warm process forks into them, so that a step costs no second import and yet meets nothing of the step before: it is
process 1 and sees no parent; `/tmp`, `/ws` and `/dev/shm` are empty; there are no System V or POSIX queues and no
sockets. Whatever it makes, sets or leaves running ends with it, by the kernel's hand. The warm process keeps one
capability for this, over its own user namespace; a step keeps none, and its system-call filter forbids what its making
needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import socket
import stat
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Never

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_NOSUID, _NODEV, _NOEXEC, _RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 2, 4, 8, 1, 32, 4096, 16384, 1 << 18
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 4, 24, 22, 2
_CAPABILITY_VERSION, _CAPABILITIES = 0x20080522, 64
_MOST_DESCRIPTORS, _NVIDIA_MAJOR = 1024, 195
_SHARED_WRITABLE = re.compile(r"^\S+ .w.s \S+ \S+ \S+\s*(.*)$", re.MULTILINE)

_libc = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_void_p))


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    _check(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount on {target}")


def set_dumpable(dumpable: bool) -> None:
    """Whether other processes of the same user may read this one's memory and descriptors."""
    _libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)


def shared_memory() -> list[str]:
    """What a forked child could write and this process would see: names of its shared writable mappings."""
    return [name or "anonymous" for name in _SHARED_WRITABLE.findall(Path("/proc/self/maps").read_text())]


def fork_apart(child: Callable[[], Never]) -> int:
    """Fork into a new namespace of processes, of which `child` is the first; its pid here. Raises `OSError`.

    The fork happens in a thread of its own: the namespace of future children belongs to a thread, and could not be
    given back.
    """
    made: list[int | OSError] = []

    def fork() -> None:
        try:
            _check(_libc.unshare(_NEWPID), "a namespace of processes")
            pid = os.fork()
        except OSError as error:
            made.append(error)
            return
        if pid == 0:
            child()
        made.append(pid)

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def settle(scratch: Mapping[str, int]) -> None:
    """Give this forked process its own view of files and processes; `scratch` are places and bytes of its tmpfs.

    Raises `OSError` where the kernel, or what confines it, allows none of that.
    """
    os.setsid()
    _check(_libc.unshare(_NEWNS), "a namespace of mounts")
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    _mount("/proc/sys", "/proc/sys", None, _BIND | _REC)
    _mount(None, "/proc/sys", None, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | _NOEXEC)
    for place, size in scratch.items():
        _mount("tmpfs", place, "tmpfs", _NOSUID | _NODEV, f"size={size},mode={'1777' if place == '/tmp' else '0755'}")
    os.chdir("/ws")


def show(folder: str, place: str) -> None:
    """Put the directory `folder` at `place`, over whatever is there. Raises `OSError`."""
    _mount(folder, place, None, _BIND)
    _mount(None, place, None, _BIND | _REMOUNT | _NOSUID | _NODEV)


def _raise_loopback() -> None:
    """Bring the own network's loopback up, as it is in any sandbox."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(handle, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("h", request, 16)[0]
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _load_filter(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = _Filter(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0), "system-call filter")


def give_up(seccomp: bytes) -> None:
    """Users, IPC, network and host name of its own, no capability, the given system-call filter; for good.

    Raises `OSError`.
    """
    uid, gid = os.getuid(), os.getgid()
    set_dumpable(True)  # else the maps belong to root
    _check(_libc.unshare(_NEWUSER | _NEWIPC | _NEWNET | _NEWUTS | _NEWCGROUP), "namespaces")
    set_dumpable(True)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    set_dumpable(False)
    _raise_loopback()
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for those that this kernel does not have
    header, none = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _check(_libc.capset(header, none), "giving up capabilities")
    _load_filter(seccomp)


def close_others(keep: set[int]) -> None:
    """Close what was inherited: a file that two processes have open shares its flags. Devices of a GPU stay."""
    try:
        names = os.listdir("/proc/self/fd")  # noqa: PTH208
    except OSError:  # without namespaces a child may not look at itself
        names = [str(number) for number in range(_MOST_DESCRIPTORS)]
    for name in names:
        with contextlib.suppress(OSError):
            if int(name) not in keep and not _is_gpu(int(name)):
                os.close(int(name))


def _is_gpu(descriptor: int) -> bool:
    found = os.fstat(descriptor)
    return stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) == _NVIDIA_MAJOR
