"""Seeds, grades and costs of records: against the revealed secret, and against the leases that they rest on."""

from __future__ import annotations

from typing import Any

from actors.evaluator.secret import SecretError
from actors.evaluator.seeds import read_secret, seed_commitment
from actors.observer.finding import Finding
from actors.observer.leases import LeaseRow, lease_rows
from actors.observer.run_data import RunData

STORE = "evaluator"
_HEX = set("0123456789abcdef")


def audit_seeds(run: RunData) -> tuple[int, list[Finding]]:
    """Every record commits to its seeds; once the secret is revealed, the seeds are those that it gives."""
    events = run.events(STORE, "record")
    findings = [
        Finding(STORE, event.seq, f"record {event.payload.get('record_id')} does not commit to its seeds")
        for event in events
        if not _is_hash(event.payload.get("seed_commitment"))
    ]
    if not run.paths.revealed.exists():
        return len(events), findings
    try:
        secret = read_secret(run.paths)
    except SecretError as error:
        return len(events), [*findings, Finding(STORE, None, str(error))]
    for event in run.events(STORE, "evaluator_started", "secret_revealed"):
        told = event.payload.get("secret_commitment")
        if told != secret.commitment():
            findings.append(
                Finding(STORE, event.seq, "the revealed secret is not the one that this event committed to")
            )
    for event in events:
        if event.payload.get("seed_commitment") != seed_commitment(secret, event.payload):
            reason = f"record {event.payload.get('record_id')} was not made with the seeds of the revealed secret"
            findings.append(Finding(STORE, event.seq, reason))
    return len(events), findings


def audit_grounds(run: RunData) -> tuple[int, list[Finding]]:
    """The grade of a record is the worst of its leases; its GPU time and cost are the sums of what they were charged.

    The charge of each lease is rounded up to a micro-dollar, the cost of the record once.
    """
    scheduler = run.stores.get("scheduler")
    ended = {row.lease_id: row for row in lease_rows(scheduler.events) if row.ended_seq} if scheduler else {}
    events, findings = run.events(STORE, "record"), list[Finding]()
    for event in events:
        leases = [ended[name] for name in event.payload.get("lease_ids") or () if name in ended]
        reason = _ground_fault(event.payload, leases)
        if reason is not None:
            findings.append(Finding(STORE, event.seq, f"record {event.payload.get('record_id')} {reason}"))
    return len(events), findings


def _ground_fault(record: dict[str, Any], leases: list[LeaseRow]) -> str | None:
    if not leases:
        return None  # that it rests on no lease is what the check of records says
    worst, claimed = max(lease.sandbox_grade or "C" for lease in leases), str(record.get("sandbox_grade"))
    if claimed < worst:
        return f"claims sandbox grade {claimed}, its leases have {worst}"
    used = sum(lease.gpu_ms for lease in leases)
    if record.get("gpu_ms") != used:
        return f"claims {record.get('gpu_ms')} GPU-ms, its leases used {used}"
    charged, cost = sum(lease.usd for lease in leases), record.get("cost")
    if not isinstance(cost, int) or not 0 <= charged - cost < len(leases):
        return f"claims to have cost {cost} micro-dollars, its leases were charged {charged}"
    return None if record.get("probe_hash") or worst == "C" else "names no probe of its sandbox"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX
