"""Records against the evaluator's key and the leases behind them; figures in posts against records."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from actors.evaluator.records import verify
from actors.observer.finding import Finding
from actors.observer.leases import lease_rows
from actors.observer.run_data import RunData
from cluster.journal import Event
from cluster.names import CAMPAIGN
from cluster.store import open_readonly
from cluster.wire import WireError, unpack
from forum_actor.render import figures

STORE = "evaluator"
_BODY_LIMIT = 4 << 20
_NAMES = ("method", "researcher", "tier", "domain", "seeds", "n")
_SCORES = ("accuracy", "pgr", "interval")


def audit_records(run: RunData) -> tuple[int, list[Finding]]:
    """Each record is signed, unique, unchanged in its table, and rests on leases that ended."""
    events = run.events(STORE, "record")
    if not events:
        return 0, []
    public = _public_hex(run)
    findings = list(_key_findings(run, public))
    scheduler = run.stores.get("scheduler")
    ended = {row.lease_id for row in lease_rows(scheduler.events) if row.ended_seq} if scheduler else set[str]()
    seen: dict[str, int] = {}
    for event in events:
        reason = _record_fault(event.payload, public, ended)
        name = str(event.payload.get("record_id"))
        if name in seen:
            reason = f"record {name} stands at event {seen[name]} already"
        seen.setdefault(name, event.seq)
        if reason is not None:
            findings.append(Finding(STORE, event.seq, reason))
    return len(events), [*findings, *_table(run, events)]


def _public_hex(run: RunData) -> str:
    return "" if run.public_key is None else run.public_key.decode("ascii", "replace").strip()


def _key_findings(run: RunData, public: str) -> Iterator[Finding]:
    if not public:
        yield Finding(STORE, None, "evaluator.pub is missing, no signature can be checked")
    for event in run.stores[STORE].events:
        told = event.payload.get("public_key")
        if isinstance(told, str) and public and told.strip() != public:
            yield Finding(STORE, event.seq, "evaluator.pub is not the key that this event announced")


def _record_fault(record: dict[str, Any], public: str, ended: set[str]) -> str | None:
    name = record.get("record_id")
    if public and not verify(record, public):
        return f"record {name} does not carry the evaluator's signature"
    missing = [str(lease) for lease in record.get("lease_ids") or () if lease not in ended]
    if missing:
        return f"record {name} rests on lease {missing[0]}, which did not end in the scheduler's journal"
    return None if record.get("lease_ids") else f"record {name} names no lease"


def _table(run: RunData, events: list[Event]) -> Iterator[Finding]:
    told = {str(event.payload.get("record_id")): event for event in events}
    db = open_readonly(run.paths.evaluator_db)
    try:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'records'").fetchone() is None:
            return
        bodies = [unpack(row["body"], _BODY_LIMIT) for row in db.execute("SELECT body FROM records ORDER BY number")]
    except (sqlite3.DatabaseError, WireError) as error:
        yield Finding(STORE, None, f"the table of records cannot be read: {error}")
        return
    finally:
        db.close()
    stand = {str(body.get("record_id")): body for body in bodies}
    for name, event in told.items():
        if stand.get(name) != event.payload:
            yield Finding(STORE, event.seq, f"record {name} differs between its table and the journal")


def audit_posts(run: RunData) -> tuple[int, list[Finding]]:
    """Every record that a post reports exists, and the post shows its figures."""
    records = {str(e.payload.get("record_id")): e.payload for e in run.events(STORE, "record")}
    looked, findings = 0, list[Finding]()
    for event in run.events("forum", "post"):
        shown = {str(s.get("record_id")): s for s in event.payload.get("records") or () if isinstance(s, dict)}
        for name in event.payload.get("record_ids") or ():
            looked += 1
            reason = _figure_fault(str(name), shown.get(str(name)), records.get(str(name)))
            if reason is not None:
                findings.append(Finding("forum", event.seq, f"post {event.payload.get('id')}: {reason}"))
    return looked, findings


def _figure_fault(name: str, shown: dict[str, Any] | None, record: dict[str, Any] | None) -> str | None:
    """What is wrong with the figures of a record in a post, or `None`.

    Of a researcher's DEV or BOARD record the evaluator shows an answer (noised, or the board's level), not its exact
    accuracy and PGR; there only the rest is compared.
    """
    if record is None:
        return f"record {name} does not exist"
    if shown is None:
        return f"the figures of record {name} are missing"
    told = figures(record)
    exact = record.get("tier") == "seal" or record.get("researcher") == CAMPAIGN
    for field in (*_NAMES, *_SCORES) if exact else _NAMES:
        if shown.get(field) is not None and shown[field] != told.get(field):
            return f"{field} of record {name} is shown as {shown[field]!r}, the record says {told.get(field)!r}"
    return None
