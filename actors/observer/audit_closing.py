"""A run against its closing: the signed statement of every journal's head, every table and every file.

Promise: a run that is closed is never written again, so that any difference is a finding; summary, page and export may
have been made anew, and then must be what the journals give (`audit_derived`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

from actors.director.closing import statement_bytes
from actors.evaluator.records import verify
from actors.observer.finding import Finding
from actors.observer.run_data import RunData
from cluster.inventory import SIDE_FILES, Inventory, take
from cluster.wire import WireError

CLOSING = "closing"
_FIELDS = ("heads", "tables", "files")


def read_closing(run: RunData) -> dict[str, Any] | None:
    """The statement, whoever signed it; `None` when there is none that can be read."""
    try:
        data = run.paths.closing.read_bytes()
        found = json.loads(data)
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(name), dict) for name in _FIELDS)
    return found if whole and statement_bytes(found) == data else None


@dataclass(slots=True)
class Closed:
    """What the closing was compared with: findings, those of `files` by path, and paths whose bytes are `intact`."""

    looked_at: int = 0
    findings: list[Finding] = field(default_factory=list)
    files: dict[str, Finding] = field(default_factory=dict)
    intact: set[str] = field(default_factory=set)

    def outcome(self, derived: Set[str]) -> tuple[int, list[Finding]]:
        """All findings, but for files that were `derived` anew and are right."""
        changed = [finding for path, finding in self.files.items() if path not in derived]
        return self.looked_at, [*self.findings, *changed]


def audit_closing(run: RunData, key: str | None, ended: bool) -> Closed:
    """Everything in the directory. `key` must have signed; `ended`: the campaign must have been closed by now."""
    name = run.paths.closing.name
    if not run.paths.closing.exists():
        reason = f"{name} is missing: the campaign ended and was never closed (--resume does it), or it was removed"
        return _fault(reason) if ended else Closed()
    told = read_closing(run)
    if told is None:
        return _fault(f"{name} cannot be read")
    if key is None or told.get("public_key") != key or not _signed(told, key):
        return _fault(f"{name} does not carry the evaluator's signature")
    try:
        found = take(run.paths)
    except (sqlite3.DatabaseError, WireError) as error:
        return _fault(f"a store is damaged: {error}")
    return Closed(
        len(found.files) + sum(map(len, found.tables.values())),
        [*_heads(run, told["heads"]), *_tables(told["tables"], found), *_sides(run)],
        dict(_files(told["files"], found)),
        {path for path, what in found.files.items() if told["files"].get(path) == what},
    )


def _fault(reason: str) -> Closed:
    return Closed(findings=[Finding(CLOSING, None, reason)])


def _signed(told: dict[str, Any], key: str) -> bool:
    try:
        return verify(told, key)
    except WireError:
        return False


def _heads(run: RunData, told: dict[str, Any]) -> Iterator[Finding]:
    stands = {name: {"seq": data.head_seq, "hash": data.head} for name, data in run.stores.items()}
    for name in sorted(told.keys() | stands.keys()):
        if told.get(name) != stands.get(name):
            yield Finding(name, None, "its journal is not the one that was closed")


def _tables(told: dict[str, Any], found: Inventory) -> Iterator[Finding]:
    for store in sorted(told.keys() | found.tables.keys()):
        before, now = told.get(store, {}), found.tables.get(store, {})
        for table in sorted(before.keys() | now.keys()):
            if before.get(table) != now.get(table):
                what = f"its table {table} is" if table else "its tables and indexes are"
                yield Finding(store, None, f"{what} not what was closed")


def _files(told: dict[str, Any], found: Inventory) -> Iterator[tuple[str, Finding]]:
    for path in sorted(told.keys() | found.files.keys()):
        if told.get(path) != found.files.get(path):
            what = "is missing" if path not in found.files else "was added" if path not in told else "was changed"
            yield path, Finding("files", None, f"{_shown(path)} {what}")


def _shown(path: str) -> str:
    return path if path.isprintable() else repr(path)


def _sides(run: RunData) -> Iterator[Finding]:
    """Locks are empty, and a closed store has nothing in its write-ahead log."""
    lock, log, _ = SIDE_FILES
    sides = [path.with_name(path.name + end) for path in run.paths.databases().values() for end in (lock, log)]
    for path in (run.paths.lock, *sides):
        if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_size > 0)):
            yield Finding("files", None, f"{path.relative_to(run.paths.root)} should be empty")
