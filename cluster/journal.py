"""An append-only, hash-chained table of events inside a `Store`.

Invariant: `hash(n) = sha256(hash(n-1) || msgpack([seq, at_us, kind, payload]))`, `seq` counts from 1 without gaps.
An event is written in the same transaction as the change that it reports, so that neither exists without the other.
An edited, removed or reordered event breaks the chain at a known place; a cut tail is found by comparing the head with
an anchor elsewhere (the director's journal holds the other journals' heads).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.clock import now_us
from cluster.store import Store
from cluster.wire import WireError, pack, unpack

GENESIS = bytes(32)
_PAYLOAD_LIMIT = 16 << 20
_DDL = """
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    prev BLOB NOT NULL,
    hash BLOB NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One link of the chain; `hash` and `prev` are hexadecimal."""

    seq: int
    at_us: int
    kind: str
    payload: dict[str, Any]
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class BrokenEvent:
    """Where a chain breaks and why."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The outcome of `verify_chain`: how many events held, the head, and the first broken one."""

    events: int
    head: str
    broken: BrokenEvent | None


def link_hash(prev: bytes, seq: int, at_us: int, kind: str, payload: bytes) -> bytes:
    """The hash of one event: sha256 over its predecessor's hash and its own fields; `payload` is msgpack bytes."""
    return hashlib.sha256(prev + pack([seq, at_us, kind, payload])).digest()


_EVENTS = "SELECT * FROM journal WHERE seq > ? AND (? IS NULL OR kind = ?) ORDER BY seq"


class Journal:
    """The journal of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.schema(_DDL)

    def append(self, kind: str, payload: dict[str, Any]) -> Event:
        """Add an event, in the caller's transaction when one is open."""
        body = pack(payload)
        with self._store.transaction() as db:
            last = db.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
            seq, prev = (last["seq"] + 1, last["hash"]) if last else (1, GENESIS)
            at_us = now_us()
            digest = link_hash(prev, seq, at_us, kind, body)
            db.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", (seq, at_us, kind, body, prev, digest))
        return Event(seq, at_us, kind, payload, prev.hex(), digest.hex())

    def events(self, after_seq: int = 0, kind: str | None = None) -> list[Event]:
        """Events with a greater sequence number, oldest first."""
        return [_event(row) for row in self._store.query(_EVENTS, (after_seq, kind, kind))]

    def hash_of(self, seq: int) -> str | None:
        """The hash of an event; `None` when there is none with that number."""
        rows = self._store.query("SELECT hash FROM journal WHERE seq = ?", (seq,))
        return rows[0]["hash"].hex() if rows else None

    def head(self) -> tuple[int, str]:
        """Sequence number and hash of the last event; `(0, 64 zeros)` when empty."""
        rows = self._store.query("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1")
        return (rows[0]["seq"], rows[0]["hash"].hex()) if rows else (0, GENESIS.hex())


def _event(row: sqlite3.Row) -> Event:
    payload = unpack(row["payload"], _PAYLOAD_LIMIT)
    return Event(row["seq"], row["at_us"], row["kind"], payload, row["prev"].hex(), row["hash"].hex())


def read_events(db: sqlite3.Connection, after_seq: int = 0, kind: str | None = None) -> Iterator[Event]:
    """Events of a store that was opened read-only, oldest first; as `Journal.events`."""
    for row in db.execute(_EVENTS, (after_seq, kind, kind)):
        yield _event(row)


def _link_fault(row: sqlite3.Row, expected_seq: int, prev: bytes) -> str | None:
    if row["seq"] != expected_seq:
        return f"sequence jumps to {row['seq']}, expected {expected_seq}: an event is missing"
    if row["prev"] != prev:
        return "it does not follow its predecessor: an event was removed, inserted or reordered"
    try:
        if row["hash"] != link_hash(prev, row["seq"], row["at_us"], row["kind"], row["payload"]):
            return "its content does not match its hash: it was edited"
        unpack(row["payload"], _PAYLOAD_LIMIT)
    except WireError as error:
        return f"its payload is unreadable: {error}"
    return None


def verify_chain(db: sqlite3.Connection) -> ChainReport:
    """Walk the chain of a store and say where it first breaks."""
    prev, count = GENESIS, 0
    with _tolerant_text(db):
        for row in db.execute("SELECT * FROM journal ORDER BY seq"):
            fault = _link_fault(row, count + 1, prev)
            if fault is not None:
                return ChainReport(count, prev.hex(), BrokenEvent(row["seq"], fault))
            prev, count = row["hash"], count + 1
    return ChainReport(count, prev.hex(), None)


@contextmanager
def _tolerant_text(db: sqlite3.Connection) -> Iterator[None]:
    """Read text that is not UTF-8 with replacement characters: a forged event is reported, not an error of SQLite."""
    before = db.text_factory
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        yield
    finally:
        db.text_factory = before
