"""The lease book: every request with its state, every registered slot, what each holder used.

Promises: a request is in exactly one state (queued, running, or ended as done, expired, lost or cancelled) and leaves
an ended state never; the leases on a slot never sum to more than the whole slot (checked again here, whatever the
policy decided). Each method is a part of its caller's transaction, so that book, ledger and journal agree.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from actors.scheduler.admission import Demand, holder_of
from actors.scheduler.policy import WHOLE, Held, Usage, Waiting
from cluster.clock import now_us
from cluster.errors import AarError
from cluster.objects import sha256_hex
from cluster.store import Store
from cluster.wire import pack, unpack
from gpu_pool.leases import LeaseRequest, LeaseResult, LeaseStatus, SlotInfo

State = Literal["queued", "running", "done", "expired", "lost", "cancelled"]
LIVE = ("queued", "running")
LEAST_SHARE_MS = 1000
"""A lease counts at least this in its holder's share: a stream of leases that fail at once is not free."""
RESULT_LIMIT = 16 << 20
_DDL = """
CREATE TABLE IF NOT EXISTS leases (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    holder TEXT NOT NULL,
    kind TEXT NOT NULL,
    label TEXT NOT NULL,
    thousandths INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    reserved_gpu_ms INTEGER NOT NULL,
    usd_per_gpu_hour INTEGER NOT NULL,
    request BLOB NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    cancel_asked INTEGER NOT NULL DEFAULT 0,
    slot TEXT,
    threads INTEGER,
    submitted_us INTEGER NOT NULL,
    granted_us INTEGER,
    ended_us INTEGER,
    gpu_ms INTEGER NOT NULL DEFAULT 0,
    usd INTEGER NOT NULL DEFAULT 0,
    result BLOB
);
CREATE INDEX IF NOT EXISTS leases_live ON leases (state) WHERE state IN ('queued', 'running');
CREATE TABLE IF NOT EXISTS slots (
    name TEXT PRIMARY KEY,
    actor TEXT NOT NULL,
    info BLOB NOT NULL,
    retired INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS holders (
    name TEXT PRIMARY KEY,
    used_ms INTEGER NOT NULL DEFAULT 0,
    turn_us INTEGER NOT NULL DEFAULT 0
);
"""


class BookError(AarError):
    """A change that would break the book's promises: a defect, never a request's fault."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request in the book. Times are Unix microseconds, `reserved_gpu_ms` is the worst case."""

    sequence: int
    request_id: str
    key: str
    account: str
    holder: str
    kind: str
    label: str
    thousandths: int
    duration_ms: int
    reserved_gpu_ms: int
    usd_per_gpu_hour: int
    state: State
    attempt: int
    cancel_asked: bool
    slot: str | None
    threads: int | None
    submitted_us: int
    granted_us: int | None
    ended_us: int | None

    @property
    def lease_id(self) -> str:
        """The lease of the present attempt; each attempt has its own, since a slot runs a lease once."""
        return f"{self.request_id}-{self.attempt}"

    @property
    def reservation(self) -> str:
        """The key of its reservation in the ledger."""
        return f"lease/{self.request_id}"

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.state in LIVE

    @property
    def ends_us(self) -> int:
        """When the running lease ends at the latest."""
        return (self.granted_us or 0) + self.duration_ms * 1000

    def waiting(self) -> Waiting:
        """The policy's view of a queued request."""
        duration_us = self.duration_ms * 1000
        return Waiting(
            self.request_id, self.holder, self.kind, self.thousandths, duration_us, self.submitted_us, self.sequence
        )


@dataclass(frozen=True, slots=True)
class SlotEntry:
    """A registered slot: what it is, the actor that owns it, whether it still takes leases."""

    info: SlotInfo
    actor: str
    retired: bool


_COLUMNS = ", ".join(Entry.__dataclass_fields__)


class Book:
    """The lease book of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.schema(_DDL)

    def add(self, request: LeaseRequest, demand: Demand, usd_per_gpu_hour: int) -> Entry:
        """Queue a request whose key is new."""
        with self._store.transaction() as db:
            last = db.execute("SELECT MAX(sequence) AS n FROM leases").fetchone()["n"] or 0
            request_id = f"r{last + 1:06d}"
            holder = holder_of(request.account)
            db.execute("INSERT OR IGNORE INTO holders (name) VALUES (?)", (holder,))
            row = (
                last + 1, request_id, request.key, request.account, holder, request.kind, request.label,
                demand.thousandths, demand.duration_ms, demand.worst.gpu_ms, usd_per_gpu_hour, demand.packed, now_us(),
            )  # fmt: skip
            db.execute(
                "INSERT INTO leases (sequence, request_id, key, account, holder, kind, label, thousandths,"
                " duration_ms, reserved_gpu_ms, usd_per_gpu_hour, request, submitted_us, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued')",
                row,
            )
        return self.get(request_id)

    def grant(self, request_id: str, slot: str, threads: int, oldest: bool) -> Entry:
        """Move a queued request to running on a slot. Raises `BookError` when the slot has no room for it."""
        with self._store.transaction() as db:
            entry = self._in_state(request_id, "queued")
            used = sum(e.thousandths for e in self.running() if e.slot == slot)
            if used + entry.thousandths > WHOLE:
                raise BookError(f"slot {slot} holds {used} thousandths, {entry.thousandths} more do not fit")
            at = now_us()
            db.execute(
                "UPDATE leases SET state = 'running', slot = ?, threads = ?, granted_us = ? WHERE request_id = ?",
                (slot, threads, at, request_id),
            )
            if oldest:
                db.execute("UPDATE holders SET turn_us = ? WHERE name = ?", (at, entry.holder))
        return self.get(request_id)

    def requeue(self, request_id: str) -> Entry:
        """Put a running request, whose lease was lost, back at its old place in the queue, for its next attempt."""
        with self._store.transaction() as db:
            self._in_state(request_id, "running")
            db.execute(
                "UPDATE leases SET state = 'queued', attempt = attempt + 1, slot = NULL, threads = NULL,"
                " granted_us = NULL WHERE request_id = ?",
                (request_id,),
            )
        return self.get(request_id)

    def finish(self, request_id: str, result: LeaseResult, gpu_ms: int, usd: int) -> Entry:
        """End a live request; `gpu_ms` and `usd` are what the ledger charged."""
        with self._store.transaction() as db:
            entry = self.get(request_id)
            if not entry.live:
                raise BookError(f"request {request_id} has ended as {entry.state}")
            db.execute(
                "UPDATE leases SET state = ?, ended_us = ?, gpu_ms = ?, usd = ?, result = ? WHERE request_id = ?",
                (result.status, now_us(), gpu_ms, usd, pack(result.to_dict()), request_id),
            )
            if entry.state == "running":
                share = max(gpu_ms, LEAST_SHARE_MS)
                db.execute("UPDATE holders SET used_ms = used_ms + ? WHERE name = ?", (share, entry.holder))
        return self.get(request_id)

    def ask_cancel(self, request_id: str) -> None:
        """Note that a running request is to be cancelled."""
        with self._store.transaction() as db:
            db.execute("UPDATE leases SET cancel_asked = 1 WHERE request_id = ?", (request_id,))

    def _in_state(self, request_id: str, state: State) -> Entry:
        entry = self.get(request_id)
        if entry.state != state:
            raise BookError(f"request {request_id} is {entry.state}, not {state}")
        return entry

    def _entries(self, where: str, params: tuple[Any, ...] = ()) -> list[Entry]:
        rows = self._store.query(f"SELECT {_COLUMNS} FROM leases WHERE {where} ORDER BY sequence", params)
        return [_entry(row) for row in rows]

    def find(self, request_id: str) -> Entry | None:
        """A request by id."""
        found = self._entries("request_id = ?", (request_id,))
        return found[0] if found else None

    def get(self, request_id: str) -> Entry:
        """A request that is known to exist."""
        entry = self.find(request_id)
        if entry is None:
            raise BookError(f"no request {request_id}")
        return entry

    def by_key(self, key: str) -> Entry | None:
        """A request by its idempotency key."""
        found = self._entries("key = ?", (key,))
        return found[0] if found else None

    def queued(self) -> list[Entry]:
        """Waiting requests, oldest first."""
        return self._entries("state = 'queued'")

    def running(self) -> list[Entry]:
        """Running requests, oldest first."""
        return self._entries("state = 'running'")

    def count_queued(self, holder: str | None = None) -> int:
        """How many requests wait, of one holder or in all."""
        query = "SELECT COUNT(*) AS n FROM leases WHERE state = 'queued' AND (? IS NULL OR holder = ?)"
        return int(self._store.query(query, (holder, holder))[0]["n"])

    def request(self, request_id: str) -> LeaseRequest:
        """The request as it was submitted."""
        rows = self._store.query("SELECT request FROM leases WHERE request_id = ?", (request_id,))
        return LeaseRequest.from_dict(unpack(rows[0]["request"]))

    def result(self, request_id: str) -> LeaseResult | None:
        """The result of an ended request."""
        rows = self._store.query("SELECT result FROM leases WHERE request_id = ?", (request_id,))
        if not rows or rows[0]["result"] is None:
            return None
        return LeaseResult.from_dict(unpack(rows[0]["result"], RESULT_LIMIT))

    def result_sha256(self, request_id: str) -> str:
        """What names the result of an ended request in the journal."""
        rows = self._store.query("SELECT result FROM leases WHERE request_id = ?", (request_id,))
        return sha256_hex(rows[0]["result"])

    def held(self) -> dict[str, list[Held]]:
        """What is in use on each slot."""
        out: dict[str, list[Held]] = {}
        for entry in self.running():
            out.setdefault(entry.slot or "", []).append(Held(entry.thousandths, entry.ends_us))
        return out

    def usage(self) -> dict[str, Usage]:
        """GPU time of each holder: used by ended leases and held by running ones."""
        running: dict[str, int] = {}
        for entry in self.running():
            running[entry.holder] = running.get(entry.holder, 0) + entry.reserved_gpu_ms
        rows = self._store.query("SELECT * FROM holders ORDER BY name")
        return {r["name"]: Usage(r["used_ms"] + running.get(r["name"], 0), r["turn_us"]) for r in rows}

    def put_slot(self, info: SlotInfo, actor: str) -> bool:
        """Register a slot or renew it; whether anything changed."""
        new = SlotEntry(info, actor, False)
        if self.slots().get(info.name) == new:
            return False
        body = pack({f: getattr(info, f) for f in SlotInfo.__dataclass_fields__})
        with self._store.transaction() as db:
            db.execute("INSERT OR REPLACE INTO slots VALUES (?, ?, ?, 0)", (info.name, actor, body))
        return True

    def retire_slot(self, name: str) -> bool:
        """Give a slot no more leases; whether anything changed."""
        with self._store.transaction() as db:
            return db.execute("UPDATE slots SET retired = 1 WHERE name = ? AND retired = 0", (name,)).rowcount > 0

    def slots(self) -> dict[str, SlotEntry]:
        """All slots that were ever registered, by name."""
        rows = self._store.query("SELECT * FROM slots ORDER BY name")
        return {r["name"]: SlotEntry(SlotInfo(**unpack(r["info"])), r["actor"], bool(r["retired"])) for r in rows}


def _entry(row: sqlite3.Row) -> Entry:
    values = {name: row[name] for name in Entry.__dataclass_fields__}
    return Entry(**{**values, "cancel_asked": bool(values["cancel_asked"])})


def unused_result(entry: Entry, status: LeaseStatus, slot: SlotInfo | None) -> LeaseResult:
    """The result of a request that no slot carried out."""
    node, gpu, grade, probe = (slot.node, slot.gpu_name, slot.sandbox_grade, slot.probe_hash) if slot else ("",) * 4
    at = now_us()
    return LeaseResult(entry.lease_id, status, (), 0, at, at, entry.slot or "", node, gpu, grade, probe)
