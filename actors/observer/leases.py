"""Leases as the scheduler's journal tells them: who asked, which slot, how long, what it cost, how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.journal import Event


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One attempt at a request. `status` is queued, running, requeued (it was lost and is tried again) or how it ended.

    `request_id` names the request and its reservation `lease/<request_id>`; the `*_seq` are events of the scheduler's
    journal; `gpu_ms` and `usd` (micro-dollars) are what the ledger charged.
    """

    lease_id: str
    request_id: str
    account: str
    kind: str
    label: str
    gpus: float
    requested_seq: int | None = None
    granted_seq: int | None = None
    ended_seq: int | None = None
    status: str = "queued"
    slot: str = ""
    requested_us: int = 0
    started_us: int = 0
    ended_us: int = 0
    gpu_ms: int = 0
    usd: int = 0
    sandbox_grade: str = ""


def lease_rows(events: Sequence[Event]) -> list[LeaseRow]:
    """Every lease that was requested, granted or ended, in the order of its first event."""
    rows: dict[str, LeaseRow] = {}
    for event in events:
        if event.kind not in _KINDS:
            continue
        request = str(event.payload.get("request_id") or "")
        name = str(event.payload.get("lease_id") or f"{request}-1")
        first = rows.get(f"{request}-1", LeaseRow(name, request, "", "", "", 0.0))
        fresh = replace(
            first, lease_id=name, granted_seq=None, ended_seq=None, status="queued", started_us=0, ended_us=0
        )
        rows[name] = _apply(_described(rows.get(name, fresh), event.payload), event)
    return list(rows.values())


_NOT_RUN: dict[str, Any] = {"granted_seq": None, "ended_seq": None, "started_us": 0, "ended_us": 0}
_KINDS = ("lease_requested", "lease_granted", "lease_lost", "lease_ended")


def _described(row: LeaseRow, payload: dict[str, Any]) -> LeaseRow:
    return replace(
        row,
        account=str(payload.get("account", row.account)),
        kind=str(payload.get("kind", row.kind)),
        label=str(payload.get("label", row.label)),
        gpus=float(payload.get("gpus", row.gpus)),
        slot=str(payload.get("slot") or row.slot),
    )


def _apply(row: LeaseRow, event: Event) -> LeaseRow:
    payload = event.payload
    if event.kind == "lease_requested":
        return replace(row, requested_seq=event.seq, requested_us=event.at_us)
    if event.kind == "lease_granted":
        return replace(row, granted_seq=event.seq, started_us=event.at_us, status="running")
    if event.kind == "lease_lost":
        return replace(row, ended_seq=event.seq, ended_us=event.at_us, status="requeued")
    granted = row.granted_seq is not None
    return replace(
        row,
        ended_seq=event.seq,
        status=str(payload.get("status", "ended")),
        started_us=int(payload.get("started_us") or row.started_us) if granted else 0,
        ended_us=int(payload.get("ended_us") or event.at_us),
        gpu_ms=int(payload.get("gpu_ms") or 0),
        usd=int(payload.get("usd") or 0),
        sandbox_grade=str(payload.get("sandbox_grade") or ""),
    )
