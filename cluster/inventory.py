"""What a run directory holds, as digests: every table of every store, every file, whatever foreign code left there.

Promises: reads and never writes; follows no symbolic link, opens nothing but regular files and directories, goes down
without recursion (paths may be longer than the system's limit), and raises for nothing that it finds. Two directories
have one inventory exactly when they hold the same. Not in it: what `left_out` names, which holds nothing of its own.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.names import RunPaths
from cluster.store import open_readonly
from cluster.wire import pack

SIDE_FILES = (".lock", "-wal", "-shm")
"""Beside a store: its lock, and what SQLite needs while the store is open."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Inventory:
    """`tables`: by store and table, rows and a digest; `files`: by path, what is there (see `file_digests`)."""

    tables: dict[str, dict[str, str]]
    files: dict[str, str]


def take(paths: RunPaths) -> Inventory:
    """The inventory of a run that nobody writes any more. Raises `sqlite3.DatabaseError` for a damaged store."""
    tables = {}
    for name, path in paths.databases().items():
        db = open_readonly(path)
        try:
            tables[name] = table_digests(db)
        finally:
            db.close()
    return Inventory(tables, file_digests(paths.root, left_out(paths)))


def left_out(paths: RunPaths) -> frozenset[str]:
    """Paths below the root that no inventory covers: locks, SQLite's side files, the inventory's own file."""
    stores = [path.relative_to(paths.root).as_posix() for path in paths.databases().values()]
    sides = {f"{store}{ending}" for store in stores for ending in SIDE_FILES}
    return frozenset(sides | {paths.lock.name, paths.closing.name})


def table_digests(db: sqlite3.Connection) -> dict[str, str]:
    """By table, the number of its rows and a digest of them in any order; `""` stands for the schema.

    Text and bytes of one content are told apart. A virtual table is covered by the tables that it keeps its rows in.
    """
    db.row_factory = None
    db.text_factory = _Text
    schema = sorted(map(_packed, db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")))
    found = {"": hashlib.sha256(b"".join(schema)).hexdigest()}
    listed = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    for raw, sql in listed:
        name = str(bytes(raw), "utf-8", "replace")
        if not bytes(sql or b"").upper().startswith(b"CREATE VIRTUAL"):
            escaped = name.replace('"', '""')
            rows = sorted(_packed(row) for row in db.execute(f'SELECT * FROM "{escaped}"'))
            found[name] = f"{len(rows)} {hashlib.sha256(b''.join(rows)).hexdigest()}"
    return found


class _Text(bytes):
    """Text of a database as it is stored, be it UTF-8 or not."""


def _packed(row: tuple[object, ...]) -> bytes:
    """32 bytes for a row."""
    plain = [["text", bytes(value)] if isinstance(value, _Text) else value for value in row]
    return hashlib.sha256(pack(plain)).digest()


def file_digests(root: Path, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """What is at each path below `root`: `<bytes> <sha256>`, `-> <target>`, `directory`, or why there is no digest.

    Everything below a researcher's workspace is one entry: it may be a million files.
    """
    found: dict[str, str] = {}
    workspaces: dict[str, list[str]] = {}
    for path, what in _walk(root):
        if path in without:
            continue
        parts = path.split("/")
        if len(parts) > _WORKSPACE and parts[0] == "researchers" and parts[2] == "workspace":
            workspaces.setdefault("/".join(parts[:_WORKSPACE]), []).append(f"{path}\0{what}")
        else:
            found[_plain(path)] = _plain(what)
    for path, lines in workspaces.items():
        digest = _packed((len(lines), *sorted(line.encode("utf-8", "surrogateescape") for line in lines))).hex()
        found[path] = f"{len(lines)} entries {digest}"
    return dict(sorted(found.items()))


_WORKSPACE = 3


def _plain(name: str) -> str:
    """A name as text that can be written anywhere: one that is not UTF-8 as its bytes, after one that no name has."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"\0{os.fsencode(name).hex()}"
    return name


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """Every path below `root`, with what is there."""
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            descriptor = _open_folder(root, folder)
        except OSError as error:
            yield folder or ".", f"unreadable: {error.strerror}"
            continue
        try:
            for name in os.listdir(descriptor):  # noqa: PTH208 (a descriptor, so that no path is too long)
                path = f"{folder}/{name}" if folder else name
                what = _what(descriptor, name)
                if what == "directory":
                    pending.append(path)
                yield path, what
        finally:
            os.close(descriptor)


def _open_folder(root: Path, folder: str) -> int:
    """A directory below `root`, one step at a time: no step may be a link, and no path is too long."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in filter(None, folder.split("/")):
        try:
            below = os.open(part, _DIRECTORY, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _what(folder: int, name: str) -> str:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            return "directory"
        if stat.S_ISLNK(mode):
            return f"-> {os.readlink(name, dir_fd=folder)}"
        if not stat.S_ISREG(mode):
            return f"special {stat.S_IFMT(mode):o}"
        return _digest(os.open(name, _FILE, dir_fd=folder))
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _digest(descriptor: int) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        while chunk := os.read(descriptor, _CHUNK):
            digest.update(chunk)
            size += len(chunk)
    finally:
        os.close(descriptor)
    return f"{size} {digest.hexdigest()}"
