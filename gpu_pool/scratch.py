"""Where workers keep what crosses into a sandbox, and who clears it when a slot was killed.

Promise: a scratch directory exists as long as its owner process holds its lock; `sweep` removes those whose owner is
gone (they may hold copies of labels), and never one that is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import IO

from cluster.trees import remove_tree

PREFIX = "aar-lane-"
_LOCK = "owner.lock"
_LOCK_S = 1.0
"""Longer than an owner takes from the making of its directory to its lock."""


class Scratch:
    """A private directory that is locked by this process until `remove`."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock: IO[str] = (self.path / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def folder(self, name: str) -> Path:
        """A new directory inside."""
        path = self.path / name
        path.mkdir()
        return path

    def hand_to(self, uid: int) -> None:
        """Let a sandbox of that uid come this way, which without namespaces it must; others still cannot."""
        if os.geteuid() == 0:
            os.chown(self.path, uid, uid)

    def remove(self) -> None:
        """Remove the directory, whatever foreign code left in it; repeated calls do nothing."""
        remove_tree(self.path)
        self._lock.close()


def sweep() -> int:
    """Remove scratch directories of this user whose owner is dead; how many there were."""
    removed = 0
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            found = path.stat()
            if os.getuid() in (0, found.st_uid) and _abandoned(path, _LOCK_S):
                remove_tree(path)
                removed += 1
    return removed


def _abandoned(path: Path, patience_s: float) -> bool:
    """Whether nobody holds the lock. What stands in its place and is no file that can be locked is nobody's."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if not patience_s:
            return True
        time.sleep(patience_s)  # its owner may be about to make and lock it
        return _abandoned(path, 0.0)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
