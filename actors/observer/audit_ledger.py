"""The ledger's journal against its own rules, against its tables, and against the leases that it paid for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from actors.observer.books import Books, replay
from actors.observer.finding import Finding
from actors.observer.leases import LeaseRow, lease_rows
from actors.observer.run_data import RunData
from cluster.journal import Event, read_events
from cluster.money import DIMENSIONS, Amounts
from cluster.store import open_readonly
from cluster.wire import WireError

STORE = "scheduler"
_LIVE = ("queued", "running", "requeued")


def audit_rules(run: RunData) -> tuple[int, list[Finding]]:
    """Replay: no account above a cap, no reservation ended twice, nothing charged above what was reserved, and nothing
    but leases still reserved when the campaign has ended.
    """
    events = _events(run)
    books = replay(events)
    findings = [Finding(STORE, fault.seq, fault.reason) for fault in books.faults]
    if run.events("director", "campaign_ended"):
        held = [r for r in books.reservations.values() if r.state == "held" and not r.key.startswith("lease/")]
        findings += [Finding(STORE, r.reserved_seq, f"{r.key} is held although the campaign has ended") for r in held]
    return len(events), findings


def audit_tables(run: RunData) -> tuple[int, list[Finding]]:
    """Balances, reservations and the lease book say what the journal says (read in one snapshot)."""
    data = run.stores.get(STORE)
    if data is None or data.broken is not None:
        return 0, []
    db = open_readonly(run.paths.scheduler_db)
    try:
        db.execute("BEGIN")
        events = list(read_events(db))
        books = replay(events)
        findings = [*_balances(db, books), *_reservations(db, books), *_book(db, lease_rows(events))]
        return len(books.accounts) * len(DIMENSIONS) + len(books.reservations), findings
    except (sqlite3.DatabaseError, WireError) as error:
        return 0, [Finding(STORE, None, f"a table of the ledger cannot be read: {error}")]
    finally:
        db.close()


def _balances(db: sqlite3.Connection, books: Books) -> Iterator[Finding]:
    found = {(r["account"], r["dimension"]): r for r in db.execute("SELECT * FROM balances")}
    for account in books.accounts.values():
        for d in DIMENSIONS:
            row = found.pop((account.name, d), None)
            told = (getattr(account.caps, d), getattr(account.spent, d), getattr(account.reserved, d))
            stands = None if row is None else (row["cap"], row["spent"], row["reserved"])
            if stands != told:
                reason = f"account {account.name}, {d}: (cap, spent, reserved) is {stands}, the journal tells {told}"
                yield Finding(STORE, account.opened_seq, reason)
    for name, _ in found:
        yield Finding(STORE, None, f"account {name} has a balance and was never opened in the journal")


def _reservations(db: sqlite3.Connection, books: Books) -> Iterator[Finding]:
    found = {r["key"]: r for r in db.execute("SELECT * FROM reservations")}
    for key, told in books.reservations.items():
        row = found.pop(key, None)
        if row is None:
            yield Finding(STORE, told.reserved_seq, f"reservation {key} of the journal is not in the ledger")
            continue
        charged = Amounts(*(row[f"charged_{d}"] for d in DIMENSIONS))
        amounts = Amounts(*(row[d] for d in DIMENSIONS))
        if (row["account"], row["state"], amounts, charged) != (told.account, told.state, told.amounts, told.charged):
            seq = told.ended_seq or told.reserved_seq
            yield Finding(STORE, seq, f"reservation {key} differs between the ledger and the journal")
    for key in found:
        yield Finding(STORE, None, f"reservation {key} of the ledger is not in the journal")


def _book(db: sqlite3.Connection, rows: Sequence[LeaseRow]) -> Iterator[Finding]:
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'leases'").fetchone() is None:
        return
    told = {row.request_id: row for row in rows}
    for entry in db.execute("SELECT request_id, state, gpu_ms, usd FROM leases ORDER BY sequence"):
        row = told.pop(entry["request_id"], None)
        if row is None:
            yield Finding(STORE, None, f"request {entry['request_id']} of the lease book is not in the journal")
            continue
        state = "queued" if row.status == "requeued" else row.status
        if (entry["state"], entry["gpu_ms"], entry["usd"]) != (state, row.gpu_ms, row.usd):
            reason = f"request {row.request_id} differs between the lease book and the journal"
            yield Finding(STORE, row.ended_seq or row.requested_seq, reason)
    for row in told.values():
        yield Finding(STORE, row.requested_seq, f"request {row.request_id} is not in the lease book")


def audit_leases(run: RunData) -> tuple[int, list[Finding]]:
    """Every lease that ended was granted, ended once, and has exactly one settlement of the same amounts."""
    events = _events(run)
    books, rows = replay(events), lease_rows(events)
    findings = [*_endings(events), *(finding for row in rows for finding in _lease(row, books))]
    known = {f"lease/{row.request_id}" for row in rows}
    for reservation in books.reservations.values():
        if reservation.key.startswith("lease/") and reservation.key not in known:
            findings.append(Finding(STORE, reservation.reserved_seq, f"{reservation.key} pays for no lease"))
    return len(rows), sorted(findings, key=lambda f: f.seq or 0)


def _endings(events: Sequence[Event]) -> Iterator[Finding]:
    ended: dict[str, int] = {}
    for event in events:
        if event.kind == "lease_ended":
            request = str(event.payload.get("request_id"))
            if request in ended:
                yield Finding(STORE, event.seq, f"request {request} ended before, at event {ended[request]}")
            ended.setdefault(request, event.seq)


def _lease(row: LeaseRow, books: Books) -> Iterator[Finding]:
    key = f"lease/{row.request_id}"
    paid = books.reservations.get(key)
    if row.requested_seq is None:
        yield Finding(STORE, row.granted_seq or row.ended_seq, f"lease {row.lease_id} was never requested")
    if paid is None:
        yield Finding(STORE, row.requested_seq, f"lease {row.lease_id} has no reservation {key}")
        return
    if row.status in _LIVE:
        if row.status != "requeued" and paid.state != "held":
            reason = f"lease {row.lease_id} is {row.status}, its reservation is {paid.state}"
            yield Finding(STORE, paid.ended_seq, reason)
        return
    if row.granted_seq is None and row.status != "cancelled":
        yield Finding(STORE, row.ended_seq, f"lease {row.lease_id} ended as {row.status} and was never granted")
    free = row.gpu_ms == 0 and row.usd == 0
    if paid.state == "held":
        yield Finding(STORE, row.ended_seq, f"lease {row.lease_id} ended and was not settled")
    elif paid.state == "released" and not (free and row.status in ("lost", "cancelled")):
        yield Finding(STORE, paid.ended_seq, f"lease {row.lease_id} ended as {row.status} and its cost was released")
    elif paid.charged != Amounts(usd=row.usd, gpu_ms=row.gpu_ms):
        reason = f"lease {row.lease_id} used {row.gpu_ms} GPU-ms, {row.usd} micro-dollars; settled otherwise"
        yield Finding(STORE, paid.ended_seq, reason)
    if paid.account != row.account:
        yield Finding(STORE, row.ended_seq, f"lease {row.lease_id} of {row.account} was paid by {paid.account}")


def _events(run: RunData) -> tuple[Event, ...]:
    data = run.stores.get(STORE)
    return () if data is None else data.events
