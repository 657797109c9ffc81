"""A run against its closing: the signed statement of every journal's head, every table and every file.

Promise: a run that is closed is never written again, so that any difference is a finding; summary, page and export may
have been made anew, and then must be what the journals give (`audit_derived`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Set
from typing import Any

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
        found = json.loads(run.paths.closing.read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(name), dict) for name in _FIELDS)
    return found if whole else None


def audit_closing(run: RunData, key: str | None, derived: Set[str], ended: bool) -> tuple[int, list[Finding]]:
    """Everything in the directory. `key` must have signed, `derived` are files that were derived again and are right;
    `ended`: the campaign is one that is closed at its end, and has come to it.
    """
    name = run.paths.closing.name
    if not run.paths.closing.exists():
        reason = f"{name} is missing: the campaign ended and was never closed (--resume does it), or it was removed"
        return 0, [Finding(CLOSING, None, reason)] if ended else []
    told = read_closing(run)
    if told is None:
        return 0, [Finding(CLOSING, None, f"{name} cannot be read")]
    if key is None or told.get("public_key") != key or not _signed(told, key):
        return 0, [Finding(CLOSING, None, f"{name} does not carry the evaluator's signature")]
    try:
        found = take(run.paths)
    except (sqlite3.DatabaseError, WireError) as error:
        return 0, [Finding(CLOSING, None, f"a store is damaged: {error}")]
    findings = [*_heads(run, told["heads"]), *_tables(told["tables"], found), *_files(told["files"], found, derived)]
    return len(found.files) + sum(map(len, found.tables.values())), [*findings, *_sides(run)]


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


def _files(told: dict[str, Any], found: Inventory, derived: Set[str]) -> Iterator[Finding]:
    for path in sorted(told.keys() | found.files.keys()):
        if told.get(path) != found.files.get(path) and path not in derived:
            what = "is missing" if path not in found.files else "was added" if path not in told else "was changed"
            yield Finding("files", None, f"{_shown(path)} {what}")


def _shown(path: str) -> str:
    return path if path.isprintable() else repr(path)


def _sides(run: RunData) -> Iterator[Finding]:
    """Locks are empty, and a closed store has nothing in its write-ahead log."""
    lock, log, _ = SIDE_FILES
    sides = [path.with_name(path.name + end) for path in run.paths.databases().values() for end in (lock, log)]
    for path in (run.paths.lock, *sides):
        if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_size > 0)):
            yield Finding("files", None, f"{path.relative_to(run.paths.root)} should be empty")
