"""Content-addressed files: snapshots, methods, students, logs.

Invariant: the name of an object is the sha256 of its bytes, checked when it is read. Writes are atomic (temporary file
and rename), so that a killed writer leaves no half object. A tree is an object that lists relative paths and the
objects they hold.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath

from cluster.errors import AarError
from cluster.wire import WireError, pack, unpack


class ObjectError(AarError):
    """A missing or damaged object, or a path that leaves its tree."""


def sha256_hex(data: bytes) -> str:
    """The lower-case hexadecimal sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def safe_relative(path: str) -> PurePosixPath:
    """`path` as a relative path without `..`, empty parts or control characters. Raises `ObjectError`."""
    pure = PurePosixPath(path)
    odd = any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in path)
    bad = not pure.parts or pure.is_absolute() or ".." in pure.parts or odd or len(path) > 240
    if bad or str(pure) != path:
        raise ObjectError(f"{path!r} is not a plain relative path")
    return pure


def _check_tree(paths: list[str]) -> None:
    pure = [safe_relative(path) for path in paths]
    directories = {parent for path in pure for parent in path.parents}
    for path in pure:
        if path in directories:
            raise ObjectError(f"{str(path)!r} is a file and a directory at once")


def _is_entry(entry: object) -> bool:
    match entry:
        case [str(), str(), int()]:
            return True
    return False


class ObjectStore:
    """Objects under `root`, two hexadecimal digits per directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def _path(self, sha: str) -> Path:
        if len(sha) != 64 or any(c not in "0123456789abcdef" for c in sha):
            raise ObjectError(f"{sha!r} is not a sha256")
        return self._root / sha[:2] / sha

    def put_bytes(self, data: bytes) -> str:
        """Store `data`; its sha256."""
        sha = sha256_hex(data)
        path = self._path(sha)
        if path.exists():
            return sha
        path.parent.mkdir(exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
        return sha

    def has(self, sha: str) -> bool:
        """Whether the object is here."""
        return self._path(sha).exists()

    def get_bytes(self, sha: str) -> bytes:
        """The bytes of an object, checked. Raises `ObjectError` when it is missing or damaged."""
        try:
            data = self._path(sha).read_bytes()
        except FileNotFoundError as error:
            raise ObjectError(f"no object {sha}") from error
        if sha256_hex(data) != sha:
            raise ObjectError(f"object {sha} is damaged")
        return data

    def put_tree(self, files: dict[str, bytes]) -> str:
        """Store several files and the list that names them; the sha256 of that list.

        Raises `ObjectError` on a path that leaves the tree, or that is a file and a directory at once.
        """
        _check_tree(list(files))
        entries = sorted((str(safe_relative(path)), self.put_bytes(data), len(data)) for path, data in files.items())
        return self.put_bytes(pack([list(entry) for entry in entries]))

    def list_tree(self, sha: str) -> list[tuple[str, str, int]]:
        """Entries `(path, sha, bytes)` of a tree, sorted by path. Raises `ObjectError` when it is no tree.

        The paths are checked again: any stored bytes can be named as a tree, those of a stranger too.
        """
        try:
            entries = unpack(self.get_bytes(sha))
        except WireError as error:
            raise ObjectError(f"object {sha} is not a tree") from error
        if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
            raise ObjectError(f"object {sha} is not a tree")
        _check_tree([path for path, _, _ in entries])
        return [(path, blob, size) for path, blob, size in entries]

    def get_tree(self, sha: str) -> dict[str, bytes]:
        """The files of a tree by relative path."""
        return {path: self.get_bytes(blob) for path, blob, _ in self.list_tree(sha)}
