"""A campaign as Parquet tables, for notebooks and other tools: `export/*.parquet`.

Tables: `events` (every journal, payloads as JSON text), `leases`, `records`, `posts`, `accounts`, `calls` (of models:
tokens by kind, micro-dollars, attempts without an answer too). A table without rows is written with its columns. Files
are written under a temporary name and renamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.gateway.pricing import KINDS
from actors.observer.books import Books, replay
from actors.observer.leases import lease_rows
from actors.observer.plain import plain
from actors.observer.run_data import RunData
from actors.observer.standings import record_rows
from cluster.money import DIMENSIONS

_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()
_AMOUNTS = [(f"{what}_{d}", _INT) for what in ("cap", "spent", "reserved") for d in DIMENSIONS]
SCHEMAS: dict[str, Any] = {
    "events": pa.schema(
        [("store", _TEXT), ("seq", _INT), ("at_us", _INT), ("kind", _TEXT), ("payload", _TEXT), ("hash", _TEXT)]
    ),
    "leases": pa.schema(
        [(name, _TEXT) for name in ("lease_id", "account", "kind", "label", "slot", "status", "sandbox_grade")]
        + [("gpus", _REAL)]
        + [(name, _INT) for name in ("requested_us", "started_us", "ended_us", "gpu_ms", "usd")]
        + [(name, _INT) for name in ("requested_seq", "granted_seq", "ended_seq")]
    ),
    "records": pa.schema(
        [(name, _TEXT) for name in ("record_id", "method", "researcher", "tier", "domain", "status", "sandbox_grade")]
        + [(name, _REAL) for name in ("accuracy", "pgr", "low", "high")]
        + [(name, _INT) for name in ("seeds", "n", "created_us", "event")]
        + [("snapshot", _TEXT), ("code_hash", _TEXT), ("lease_ids", pa.list_(_TEXT))]
    ),
    "posts": pa.schema(
        [("id", _TEXT), ("seq", _INT), ("at_us", _INT)]
        + [(name, _TEXT) for name in ("author", "kind", "title", "body", "status", "reply_to", "snapshot", "idea")]
        + [("expires_us", _INT), ("record_ids", pa.list_(_TEXT)), ("event", _INT)]
    ),
    "calls": pa.schema(
        [(name, _TEXT) for name in ("key", "researcher", "model", "outcome", "stop_reason")]
        + [(name, _INT) for name in (*KINDS, "usd", "at_us", "event")]
        + [("seconds", _REAL)]
    ),
    "accounts": pa.schema([("name", _TEXT), ("parent", _TEXT), ("opened_seq", _INT), *_AMOUNTS]),
}


def export(run: RunData, directory: Path) -> list[Path]:
    """Write all tables into `directory` and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    scheduler = run.stores.get("scheduler")
    events = () if scheduler is None else scheduler.events
    tables: dict[str, Iterable[dict[str, Any]]] = {
        "events": _events(run),
        "leases": (asdict(row) for row in lease_rows(events)),
        "records": _records(run),
        "posts": ({**event.payload, "event": event.seq} for event in run.events("forum", "post")),
        "calls": _calls(run),
        "accounts": _accounts(replay(events)),
    }
    return [_write(directory / f"{name}.parquet", SCHEMAS[name], rows) for name, rows in tables.items()]


def _events(run: RunData) -> Iterator[dict[str, Any]]:
    for name, data in run.stores.items():
        for event in data.events:
            yield {
                "store": name,
                "seq": event.seq,
                "at_us": event.at_us,
                "kind": event.kind,
                "payload": json.dumps(plain(event.payload), ensure_ascii=False),
                "hash": event.hash,
            }


def _records(run: RunData) -> Iterator[dict[str, Any]]:
    for row in record_rows(run):
        low, high = row.interval or (None, None)
        yield {**row.to_dict(), "low": low, "high": high}


def _calls(run: RunData) -> Iterator[dict[str, Any]]:
    for event in run.events("gateway", "call_answered", "attempt_lost"):
        place = {"outcome": event.kind, "at_us": event.at_us, "event": event.seq}
        yield {**event.payload, **event.payload["tokens"], **place}


def _accounts(books: Books) -> Iterator[dict[str, Any]]:
    for account in books.accounts.values():
        amounts = {
            f"{what}_{d}": getattr(values, d)
            for what, values in (("cap", account.caps), ("spent", account.spent), ("reserved", account.reserved))
            for d in DIMENSIONS
        }
        yield {"name": account.name, "parent": account.parent, "opened_seq": account.opened_seq, **amounts}


def _write(path: Path, schema: Any, rows: Iterable[dict[str, Any]]) -> Path:
    kept = [{name: row.get(name) for name in schema.names} for row in rows]
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(kept, schema=schema), temporary)
    temporary.replace(path)
    return path
