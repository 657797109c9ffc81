"""Every single edit of a run directory, made from what is in it: a new table, column or file has its edits by itself.

An edit is applied in place and undone; what it touches is told as `<store>.<table>`, a column, or a path.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.inventory import left_out
from cluster.names import RunPaths

Apply = Callable[[], object]
UNIQUE = ("key", "id", "request_id", "code_hash")
FRESH: dict[str, Any] = {"INTEGER": 7, "REAL": 0.5, "BLOB": b"new"}


@dataclass(frozen=True)
class Edit:
    """One edit: its name, what it touches (a table, its column, or a path below the root), and how it is done."""

    name: str
    path: Path
    table: str
    column: str
    apply: Apply


@contextmanager
def applied(edit: Edit) -> Iterator[None]:
    """The run with one edit, and without it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        kept, path = Path(folder) / "kept", edit.path
        there = path.is_file()
        if there:
            shutil.copy2(path, kept)
        edit.apply()
        try:
            yield
        finally:
            for side in ("-wal", "-shm"):
                path.with_name(path.name + side).unlink(missing_ok=True)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            if there:
                shutil.copy2(kept, path)


def table_edits(paths: RunPaths) -> Iterator[Edit]:
    """Each column of each table of each store, each table's first row gone or doubled, each table gone, one more."""
    for store, path in paths.databases().items():
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        listed = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        for table, sql in listed:
            if table == "sqlite_sequence" or sql.upper().startswith("CREATE VIRTUAL"):
                continue
            about = db.execute(f"PRAGMA table_info({table})").fetchall()
            columns, keys = [one[1] for one in about], [one[1] for one in about if one[5]]
            fresh = tuple(FRESH.get(one[2], "new") for one in about)
            row = db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
            most = db.execute(f"SELECT {', '.join(f'max({c})' for c in columns)} FROM {table}").fetchone()
            name = f"{store}.{table}"
            if row is not None:
                for index, column in enumerate(columns):
                    changed = _other(most[index] if column in keys else row[index])
                    yield Edit(
                        f"{name}.{column}", path, name, column, _update(path, table, columns, row, index, changed)
                    )
                yield Edit(f"{name}: a row less", path, name, "", _delete(path, table, columns, row))
            twin = tuple(
                _other(top) if row and column in (keys or columns[:1]) else value
                for column, value, top in zip(columns, row or fresh, most, strict=True)
            )
            yield Edit(f"{name}: a row more", path, name, "", _insert(path, table, columns, twin))
        db.close()
        yield Edit(f"{store}: a table more", path, f"{store}.planted", "", _run(path, "CREATE TABLE planted (x)"))


def file_edits(paths: RunPaths) -> Iterator[Edit]:
    """Each file with another byte, cut, longer, gone, or with another file's bytes; one more in each folder."""
    root, without = paths.root, left_out(paths) - {paths.closing.name}
    found = sorted(path for path in root.rglob("*") if path.relative_to(root).as_posix() not in without)
    files = [path for path in found if path.is_file()]
    for number, path in enumerate(files):
        name = path.relative_to(root).as_posix()
        data = path.read_bytes()
        other = next((f for f in (*files[number + 1 :], *files) if f.read_bytes() != data), None)
        changes: dict[str, bytes] = {"more": data + b"x"}
        if data:
            changes |= {"less": data[:-1], "first byte": _flip(data, 0), "middle byte": _flip(data, len(data) // 2)}
            changes["last byte"] = _flip(data, len(data) - 1)
        if other is not None:
            changes["swapped"] = other.read_bytes()
        for what, changed in changes.items():
            yield Edit(f"{name}: {what}", path, "", "", partial(path.write_bytes, changed))
        yield Edit(f"{name}: gone", path, "", "", path.unlink)
    for folder in (root, *(path for path in found if path.is_dir())):
        name = folder.relative_to(root).as_posix()
        new = folder / "planted"
        yield Edit(f"{name}: a file more", new, "", "", partial(new.write_text, "planted"))
        yield Edit(f"{name}: a folder more", new, "", "", new.mkdir)
        yield Edit(f"{name}: a link more", new, "", "", partial(new.symlink_to, "/etc/passwd"))


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _other(value: Any) -> Any:
    """A value of the same kind that is another."""
    match value:
        case None:
            return "x"
        case bytes():
            return _flip(value, len(value) // 2) if value else b"x"
        case str():
            return value + "x"
        case _:
            return value + 1


def _run(path: Path, statement: str, values: tuple[Any, ...] = ()) -> Apply:
    def apply() -> None:
        db = sqlite3.connect(path)
        db.execute("PRAGMA ignore_check_constraints = ON")
        done = db.execute(statement, values)
        assert done.rowcount in (-1, 1), (statement, done.rowcount)
        db.commit()
        db.close()

    return apply


def _is(columns: list[str]) -> str:
    return " AND ".join(f'"{column}" IS ?' for column in columns)


def _update(path: Path, table: str, columns: list[str], row: tuple[Any, ...], index: int, new: Any) -> Apply:
    statement = f'UPDATE {table} SET "{columns[index]}" = ? WHERE {_is(columns)}'
    return _run(path, statement, (new, *row))


def _delete(path: Path, table: str, columns: list[str], row: tuple[Any, ...]) -> Apply:
    return _run(path, f"DELETE FROM {table} WHERE {_is(columns)}", row)


def _insert(path: Path, table: str, columns: list[str], row: tuple[Any, ...]) -> Apply:
    pairs = zip(columns, row, strict=True)
    unique = tuple(f"{value}~new" if isinstance(value, str) and column in UNIQUE else value for column, value in pairs)
    return _run(path, f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", unique)
