"""Reading what untrusted code left behind, without being led elsewhere.

The kernel resolves the name (openat2): no symbolic link, no step out of the directory, no /proc link. What is opened
must be a regular file with one name (a second name could be a file of somebody else) that fits the cap, both by its
size and by what is really read. Opening never blocks (a FIFO is refused, not waited for).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cluster.sandbox.errors import ReadbackError

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_CHUNK = 1 << 20
_REASONS = {
    errno.ELOOP: ("symlink", "is a symbolic link, or lies behind one"),
    errno.ENOENT: ("missing", "is missing"),
    errno.EXDEV: ("name", "leads out of its directory"),
    errno.ENOTDIR: ("name", "names something that is no directory on the way"),
    errno.ENAMETOOLONG: ("name", "is too long a name"),
    errno.EACCES: ("denied", "may not be read"),
    errno.EPERM: ("denied", "may not be read"),
    errno.ENXIO: ("not_regular", "is a socket or device without an end"),
}

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2(directory: int, name: str) -> int:
    how = _OpenHow(os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0,
                   _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)  # fmt: skip
    arguments = (ctypes.c_long(directory), os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
    descriptor = int(_libc.syscall(_SYS_OPENAT2, *arguments))
    if descriptor < 0:
        code = ctypes.get_errno()
        reason, message = _REASONS.get(code, ("io", os.strerror(code)))
        raise ReadbackError(reason, name, message)
    return descriptor


def _check_name(name: str) -> None:
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ReadbackError("name", name, "is not a plain relative name")


@contextlib.contextmanager
def _opened(directory: int | str | os.PathLike[str], name: str, max_bytes: int) -> Iterator[int]:
    """A descriptor of the checked file."""
    _check_name(name)
    try:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        root = directory if isinstance(directory, int) else os.open(directory, flags)
    except OSError as error:
        raise ReadbackError("io", name, f"its directory cannot be opened: {error.strerror}") from error
    try:
        descriptor = _openat2(root, name)
    finally:
        if not isinstance(directory, int):
            os.close(root)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ReadbackError("not_regular", name, "is not a regular file")
        if found.st_nlink != 1:
            raise ReadbackError("hardlink", name, f"has {found.st_nlink} names")
        if found.st_size > max_bytes:
            raise ReadbackError("too_large", name, f"has {found.st_size} bytes, more than {max_bytes}")
        yield descriptor
    finally:
        os.close(descriptor)


def _chunks(descriptor: int, name: str, max_bytes: int) -> Iterator[bytes]:
    """The content; the cap holds even when the file grows meanwhile."""
    total = 0
    while True:
        try:
            chunk = os.read(descriptor, min(_CHUNK, max_bytes + 1 - total))
        except OSError as error:
            raise ReadbackError("io", name, f"cannot be read: {error.strerror}") from error
        if not chunk:
            return
        total += len(chunk)
        if total > max_bytes:
            raise ReadbackError("too_large", name, f"grew beyond {max_bytes} bytes while it was read")
        yield chunk


def readback(directory: int | str | os.PathLike[str], name: str, max_bytes: int) -> bytes:
    """The content of `name` (relative, '/' allowed) below `directory` (path or descriptor), at most `max_bytes`.

    `directory` itself is trusted; everything below it is not. Raises `ReadbackError`.
    """
    with _opened(directory, name, max_bytes) as descriptor:
        return b"".join(_chunks(descriptor, name, max_bytes))


def readback_to(directory: int | str | os.PathLike[str], name: str, dest: Path, max_bytes: int) -> int:
    """Copy `name` below `directory` to the new file `dest` (mode 0644) and return its bytes.

    `dest` appears whole or not at all. Raises `ReadbackError`; an `OSError` concerns `dest`.
    """
    with _opened(directory, name, max_bytes) as descriptor:
        part = dest.with_name(f".{dest.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                written = sum(file.write(chunk) for chunk in _chunks(descriptor, name, max_bytes))
            part.chmod(0o644)
            part.replace(dest)
        finally:
            part.unlink(missing_ok=True)
    return written
