"""Opening a name below a directory; the kernel resolves it: no link is followed and nothing outside is reached."""

from __future__ import annotations

import ctypes
import os

_SYS_OPENAT2 = 437  # the same number on every architecture
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(directory: int, name: str, flags: int, *, same_mount: bool = False) -> int:
    """A descriptor of `name`, which lies below the open `directory` by names alone: no links of any kind, no `..` out.

    With `same_mount` it lies on the directory's own mount, too: bind mounts are not entered. Closed on exec.
    Raises `OSError`: `ELOOP` for a link on the way, `EXDEV` for a step out of the directory or its mount.
    """
    resolve = _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | (_NO_XDEV if same_mount else 0)
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    arguments = (ctypes.c_long(directory), os.fsencode(name), ctypes.byref(how), ctypes.c_long(ctypes.sizeof(how)))
    descriptor = int(_libc.syscall(_SYS_OPENAT2, *arguments))
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return descriptor
