"""Trees of files that foreign code made: taken away, and measured, whatever shape they have.

Promises, for any depth, any number of names, any kind of file, any permissions, names that are no text:
- Nothing here raises for what it finds, follows a link, enters another mount, opens anything but directories (and, to
  take an "immutable" mark away, regular files), or needs more than a few descriptors and one listing's buffer.
- `remove_tree` and `empty_tree` say whether everything is gone. What the kernel refuses to remove (a mount point, a
  file of another user, an immutable file without the right to change that) stays, and everything else is gone.
- `Walk` ends after a given number of entries and says whether it saw all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cluster.openat2 import open_beneath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS of 64-bit machines
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_NESTED = 16
"""Levels that are emptied in place where directories cannot be moved up (an overlay's lower layer)."""


def remove_tree(path: str | os.PathLike[str]) -> bool:
    """Remove `path`, which may be of any kind or missing; whether nothing is left of it."""
    place = Path(path)
    try:
        parent = os.open(place.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        _remove(parent, place.name)
        return not _exists(parent, place.name)
    finally:
        os.close(parent)


def empty_tree(path: str | os.PathLike[str]) -> bool:
    """Remove everything inside the directory `path`, which stays; whether nothing is left. A missing one is empty.

    The directory itself may be a mount point.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.ENOENT
    folder = _listable(place)
    if folder is None:
        return False
    try:
        return _empty(folder, _NESTED)
    finally:
        os.close(folder)


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        return error.errno != errno.ENOENT
    return True


def _enter(parent: int, name: str) -> int | None:
    """A descriptor of the directory `name` with the rights to list and change it; None when it cannot be had."""
    try:
        place = open_beneath(parent, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, same_mount=True)
    except OSError:
        return None
    return _listable(place)


def _listable(place: int) -> int | None:
    """A descriptor with which the directory can be listed and changed, in exchange for one of its place alone."""
    try:
        found = os.fstat(place)
        if found.st_mode & stat.S_IRWXU != stat.S_IRWXU:  # its owner may not enter; root may
            with contextlib.suppress(OSError):
                os.chmod(f"/proc/self/fd/{place}", stat.S_IMODE(found.st_mode) | stat.S_IRWXU)  # noqa: PTH101  # no chmod by O_PATH descriptor
        return os.open(".", _DIRECTORY, dir_fd=place)
    except OSError:
        return None
    finally:
        os.close(place)


def _remove(parent: int, name: str) -> bool:
    """Remove one name of an open directory, with all that is below it; whether it is gone."""
    if _unlink(parent, name):
        return True
    folder = _enter(parent, name)
    if folder is None:
        return False
    try:
        _soften(folder)
        return _empty(folder, _NESTED) and _rmdir(parent, name)
    finally:
        os.close(folder)


def _empty(root: int, nested: int) -> bool:
    """Remove everything in an open directory; whether it is empty now.

    Directories below are not descended into: each is opened at the top, its own directories are moved to the top, and
    it is removed. So a tree of any depth needs two descriptors and no memory.
    """
    moved, stuck = f".{secrets.token_hex(8)}-", set[str]()
    count, progress = 0, True
    while progress:
        progress, empty = False, True
        for name, is_directory in _entries(root):
            empty = False
            if name in stuck:
                continue
            if is_directory:
                gone, count = _dissolve(root, name, moved, count, nested)
            else:
                gone = _unlink(root, name)
            progress = progress or gone
            if not gone:
                stuck.add(name)
        if empty:
            return True
    return False


def _dissolve(root: int, name: str, moved: str, count: int, nested: int) -> tuple[bool, int]:
    """Remove the directory `name` of `root` after its files; its directories move up to `root` under fresh names.

    Returns whether it is gone, and the number of fresh names used so far.
    """
    if _rmdir(root, name):
        return True, count
    folder = _enter(root, name)
    if folder is None:
        return False, count
    try:
        _soften(folder)
        progress = True
        while progress:  # a listing may miss names when others go meanwhile
            progress = False
            for inner, is_directory in _entries(folder):
                count += 1
                fresh = f"{moved}{count}"
                gone = _put_away(folder, inner, root, fresh, nested) if is_directory else _unlink(folder, inner)
                progress = progress or gone
            if _rmdir(root, name):
                return True, count
        return False, count
    finally:
        os.close(folder)


def _put_away(folder: int, name: str, root: int, fresh: str, nested: int) -> bool:
    """Remove the directory `name` when it is empty, else move it to `root`, else empty it where it is."""
    if _rmdir(folder, name) or _move(folder, name, root, fresh):
        return True
    inner = _enter(folder, name) if nested else None
    if inner is None:
        return False
    try:
        _soften(inner)
        return _empty(inner, nested - 1) and _rmdir(folder, name)
    finally:
        os.close(inner)


def _entries(folder: int) -> Iterator[tuple[str, bool]]:
    """Names of an open directory, and whether each is a directory itself; ends early when it cannot be read on."""
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                try:
                    yield entry.name, entry.is_dir(follow_symlinks=False)
                except OSError:
                    yield entry.name, False
    except OSError:
        return


def _unlink(folder: int, name: str) -> bool:
    """Remove a name that is no directory."""
    return _gone(os.unlink, folder, name)


def _rmdir(folder: int, name: str) -> bool:
    """Remove an empty directory."""
    return _gone(os.rmdir, folder, name)


def _gone(remove: Callable[..., None], folder: int, name: str) -> bool:
    """Whether the name is gone; an immutable mark on it, or on the directory, is taken away first."""
    for _ in range(2):
        try:
            remove(name, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return True
            if error.errno != errno.EPERM or not _soften_both(folder, name):
                return False
        else:
            return True
    return False


def _move(folder: int, name: str, root: int, fresh: str) -> bool:
    for _ in range(3):
        try:
            os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=root)
        except OSError as error:
            if error.errno == errno.EACCES and (inner := _enter(folder, name)) is not None:
                os.close(inner)  # to move a directory is to write its "..": entering it gave its owner that right
            elif error.errno != errno.EPERM or not _soften_both(folder, name):
                return False
        else:
            return True
    return False


def _soften_both(folder: int, name: str) -> bool:
    """Take immutable and append-only marks from a name and its directory; whether there was one to take."""
    softened = _soften(folder)
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return softened  # opening a FIFO or a device could wait, or do something
        descriptor = open_beneath(folder, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, same_mount=True)
    except OSError:
        return softened
    try:
        return _soften(descriptor) or softened
    finally:
        os.close(descriptor)


def _soften(descriptor: int) -> bool:
    """Take the marks away that keep even root from removing; whether there was one and it went."""
    flags = bytearray(8)
    try:
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        marks = int.from_bytes(flags[:4], "little")
        if not marks & (_IMMUTABLE | _APPEND_ONLY):
            return False
        fcntl.ioctl(descriptor, _SET_FLAGS, (marks & ~(_IMMUTABLE | _APPEND_ONLY)).to_bytes(8, "little"))
    except OSError:
        return False
    return True


class Found(NamedTuple):
    """An entry of a tree that is no directory: its path below the root, its bytes, whether it is a regular file."""

    path: str
    bytes: int
    regular: bool


class Walk:
    """The files below `root`, which may change meanwhile; ends after `most` entries, directories included.

    `whole` is False when something was left out: too many entries, a path too long to open, a directory that may not
    be read, another mount. Iterate once.
    """

    def __init__(self, root: str | os.PathLike[str], most: int) -> None:
        self._root, self._most = root, most
        self.whole = True

    def __iter__(self) -> Iterator[Found]:
        try:
            root = os.open(self._root, _DIRECTORY)
        except OSError:
            self.whole = False
            return
        try:
            yield from self._walk(root)
        finally:
            os.close(root)

    def _walk(self, root: int) -> Iterator[Found]:
        pending, entries = [""], 0
        while pending:
            above = pending.pop()
            try:
                folder = open_beneath(root, above or ".", _DIRECTORY, same_mount=True)
            except OSError as error:
                self.whole = self.whole and error.errno in (errno.ENOENT, errno.ENOTDIR)  # gone since it was listed
                continue
            try:
                for name, is_directory in _entries(folder):
                    entries += 1
                    if entries > self._most:
                        self.whole = False
                        return
                    path = f"{above}/{name}" if above else name
                    if is_directory:
                        pending.append(path)
                    else:
                        with contextlib.suppress(OSError):  # gone since it was listed
                            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                            yield Found(path, found.st_size, stat.S_ISREG(found.st_mode))
            finally:
                os.close(folder)


def tree_bytes(root: str | os.PathLike[str], most: int = 10_000) -> int | None:
    """Bytes of the files below `root`; None for what cannot be measured: more than `most` entries, unreadable."""
    walk = Walk(root, most)
    total = sum(found.bytes for found in walk)
    return total if walk.whole else None
