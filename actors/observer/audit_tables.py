"""Tables against the journals beside them: what a store's owner keeps for its work is what its events tell.

Promise: each table is compared row by row in both directions and in one snapshot with its journal, so that a running
campaign has no loose end. Which columns that covers is found for every run by itself (`Compared.covered`). Balances,
and the amounts of reservations and leases, are the ledger's (`audit_ledger`), exchanges the gateway's (`audit_calls`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field

from actors.observer.expected_rows import EXPECTED, Expected, Packed, Rows
from actors.observer.finding import Finding
from actors.observer.run_data import RunData
from actors.researcher.transcript import CALL_CONTENT, TURN_CONTENT, turn_sha256
from cluster.journal import Event, read_events
from cluster.store import open_readonly
from cluster.wire import WireError

SHOWN = 60
_UNTOLD = object()
ELSEWHERE: dict[str, dict[str, tuple[str, ...]]] = {
    "scheduler": {
        "balances": ("account", "dimension", "cap", "spent", "reserved"),
        "reservations": (
            "key", "account", "state", "usd", "gpu_ms", "wall_ms", "answers",
            "charged_usd", "charged_gpu_ms", "charged_wall_ms", "charged_answers",
        ),
        "leases": ("request_id", "state", "gpu_ms", "usd"),
    },
    "gateway": {"blocks": ("sha", "body"), "nodes": ("sha", "parent", "message")},
}  # fmt: skip
"""Columns that other checks compare with the journal."""


@dataclass(slots=True)
class Compared:
    """The comparison of one store: rows, findings, and by table every column with whether it was covered."""

    rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    covered: dict[str, dict[str, bool]] = field(default_factory=dict)

    def uncovered(self) -> list[str]:
        """`table` where nothing is covered, else `table(column, ...)`."""
        named = []
        for table, columns in self.covered.items():
            left = [name for name, covered in columns.items() if not covered]
            if left:
                named.append(table if len(left) == len(columns) else f"{table}({', '.join(left)})")
        return named


def compare_tables(run: RunData) -> dict[str, Compared]:
    """Every store whose chain holds, with what its journal tells."""
    return {name: _store(run, name) for name, data in run.stores.items() if data.broken is None}


def _store(run: RunData, store: str) -> Compared:
    done = Compared()
    path = run.paths.databases().get(store)
    if path is None:
        return done
    office = "researcher" if store.startswith("researcher/") else store
    db = open_readonly(path)
    try:
        db.execute("BEGIN")
        events = list(read_events(db))
        done.covered = _columns(db, office)
        for expected in EXPECTED.get(office, ()):
            if expected.table in done.covered:
                rows = expected.rows(events)
                done.rows += len(rows)
                done.findings += _table(db, store, expected, rows)
                _note(done.covered[expected.table], expected, rows)
        if office == "researcher" and "turns" in done.covered:
            _turns(db, store, events, done)
    except (sqlite3.DatabaseError, WireError, KeyError, TypeError, ValueError) as error:
        done.findings.append(Finding(store, None, f"a table cannot be compared with the journal: {error!r}"))
    finally:
        db.close()
    return done


def _columns(db: sqlite3.Connection, office: str) -> dict[str, dict[str, bool]]:
    """Every column of every table but the journal and what a virtual table keeps, with whether others check it."""
    names = [row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    kept = [name for name in names if name != "journal" and not name.startswith("sqlite_")]
    elsewhere = ELSEWHERE.get(office, {})
    columns = {name: [row["name"] for row in db.execute(f'PRAGMA table_info("{name}")')] for name in kept}
    return {name: {column: column in elsewhere.get(name, ()) for column in columns[name]} for name in kept}


def _note(columns: dict[str, bool], expected: Expected, rows: Rows) -> None:
    """Covered are the key, and what every row tells whole."""
    for name in columns:
        told = (row.values.get(name, _UNTOLD) for row in rows.values())
        columns[name] |= name in expected.key or not any(
            value is _UNTOLD or (isinstance(value, Packed) and value.part) for value in told
        )


def _table(db: sqlite3.Connection, store: str, expected: Expected, told: Rows) -> Iterator[Finding]:
    left = dict(told)
    for row in db.execute(f"SELECT {expected.select} FROM {expected.table}").fetchall():
        key = tuple(row[name] for name in expected.key)
        name = f"{expected.table} {'/'.join(map(str, key))}"
        known = left.pop(key, None)
        if known is None:
            yield Finding(store, None, f"{name} stands in no event of the journal")
            continue
        for column, value in known.values.items():
            if value != row[column]:
                yield Finding(store, known.seq, f"{name}: {column} is {_short(row[column])}, the journal tells another")
    for key, missing in left.items():
        yield Finding(store, missing.seq, f"{expected.table} {'/'.join(map(str, key))} is missing from its table")


def _turns(db: sqlite3.Connection, store: str, events: list[Event], done: Compared) -> None:
    """Finished turns with their calls; the one that is not finished has no event yet."""
    told = {event.payload.get("turn"): event for event in events if event.kind == "turn"}
    for row in db.execute("SELECT * FROM turns WHERE finished_us IS NOT NULL").fetchall():
        event = told.pop(row["turn"], None)
        if event is None:
            done.findings.append(Finding(store, None, f"turn {row['turn']} stands in no event of the journal"))
            continue
        calls = db.execute("SELECT * FROM calls WHERE turn = ? ORDER BY idx", (row["turn"],)).fetchall()
        digest = event.payload.get("content_sha256")
        done.rows += 1 + len(calls)
        names = [call["name"] for call in event.payload.get("calls") or ()]
        if [call["name"] for call in calls] != names or digest not in (None, turn_sha256(row, calls)):
            reason = f"turn {row['turn']} of the transcript is not what was seen, said, called and answered"
            done.findings.append(Finding(store, event.seq, reason))
    for number, event in told.items():
        done.findings.append(Finding(store, event.seq, f"turn {number} is missing from the transcript"))
    for row in db.execute("SELECT DISTINCT turn FROM calls WHERE turn NOT IN (SELECT turn FROM turns)").fetchall():
        done.findings.append(Finding(store, None, f"calls of turn {row['turn']}, which is not in the transcript"))
    hashed = all("content_sha256" in event.payload for event in events if event.kind == "turn")
    hashed_columns: dict[str, tuple[str, ...]] = {"turns": TURN_CONTENT, "calls": CALL_CONTENT}
    for table, columns in hashed_columns.items():
        for name in ("turn", *columns):
            done.covered[table][name] |= hashed or name in ("turn", "idx", "name")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
