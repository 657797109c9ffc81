"""Storage that takes nothing now: a full disk, a locked, read-only or missing store, an error of the device.

Promise: such a fault is never an answer. Nothing of what was asked for was done, nothing that was acknowledged is lost,
and the same call may be made again, under its key, as soon as there is room. Whoever gets a `StorageError` waits.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import AarError

_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ESHUTDOWN}
)
_SQLITE = {
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_BUSY: "another process holds its lock",
    sqlite3.SQLITE_LOCKED: "another process holds its lock",
    sqlite3.SQLITE_PROTOCOL: "another process holds its lock",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_PERM: "it is read-only",
    sqlite3.SQLITE_IOERR: "its disk gives errors",
    sqlite3.SQLITE_CANTOPEN: "it is gone or cannot be opened",
}
_PROBE_BYTES = 64 << 10
LOCKED_S = 3.0
"""A store is locked when it was found so for this long: its own writer holds the lock for milliseconds."""


class StorageError(AarError):
    """Storage that takes nothing at the moment; see the module's promise."""


def storage_fault(error: BaseException | None) -> str | None:
    """What is wrong with the storage, in words, when that is what `error` tells of; else `None`."""
    if isinstance(error, StorageError):
        return str(error)
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return None if code is None else _SQLITE.get(code & 0xFF)
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return f"{error.filename or 'a file'}: {os.strerror(error.errno)}"
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that must take files, with at least `least` bytes free; `name` is for people."""

    name: str
    path: Path
    least: int = 0

    def fault(self) -> str | None:
        """Why nothing can be kept here now, in words, or `None`. Writes a small file and removes it."""
        try:
            found = os.statvfs(self.path)
            free = found.f_bavail * found.f_frsize
            if found.f_flag & os.ST_RDONLY:
                return f"{self._where} is read-only"
            if free < self.least:
                return f"{self._where} has {_mib(free)} MiB free, {_mib(self.least)} MiB are needed"
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
        except OSError as error:
            reason = "is gone" if error.errno in (errno.ENOENT, errno.ENOTDIR) else os.strerror(error.errno or 0)
            return f"{self._where} {reason}" if reason == "is gone" else f"{self._where}: {reason}"
        return None

    @property
    def _where(self) -> str:
        return f"the {self.name} {self.path}"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f}"


class StoreProbe:
    """Looks from outside whether stores can be written, without writing to them."""

    def __init__(self) -> None:
        self._busy_since: dict[Path, float] = {}

    def faults(self, stores: Mapping[str, Path]) -> list[str]:
        """What is wrong with which stores, by their owners' names; one that is only busy counts after `LOCKED_S`."""
        found = {name: self._fault(path) for name, path in stores.items()}
        return [f"the store of {name}: {why}" for name, why in found.items() if why is not None]

    def _fault(self, path: Path) -> str | None:
        if not path.exists():
            return "it is gone"
        try:
            db = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=0.0, isolation_level=None)
            try:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
            finally:
                db.close()
        except sqlite3.Error as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            began = self._busy_since.setdefault(path, time.monotonic())
            return None if busy and time.monotonic() - began < LOCKED_S else storage_fault(error) or str(error)
        self._busy_since.pop(path, None)
        return None


class Ballast:
    """A file of some MiB that is given up when its disk is full, so that what happened can still be written down."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def take(self) -> None:
        """Take the room, when it is there and not held."""
        try:
            if not self._path.exists() or self._path.stat().st_size < self._size:
                with self._path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError:  # no room for it now
            self.give()

    def give(self) -> None:
        """Give the room back."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:  # its disk is read-only or gone: there is nothing to give
            return
