"""What records say of methods: against the stored code, the finalists that were frozen, and the rule for claims.

Promise: needs neither the secret nor the evaluator; a record is judged by its own numbers, by the object store, and by
what the evaluator journaled before it opened the seal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actors.evaluator.scoring import ALPHA, VERIFIED_GRADE, enough
from actors.evaluator.source import code_hash
from actors.observer.finding import Finding
from actors.observer.run_data import RunData
from cluster.errors import RefusedError
from cluster.journal import Event
from cluster.names import CAMPAIGN
from cluster.objects import ObjectError, ObjectStore
from cluster.wire import WireError

STORE = "evaluator"
BEATS = "beats "


def audit_code(run: RunData) -> tuple[int, list[Finding]]:
    """The code hash of every record is that of the program in its snapshot."""
    events = [event for event in run.events(STORE, "record") if event.payload.get("code_hash")]
    started = run.events(STORE, "evaluator_started")
    version = str(started[0].payload.get("task_version", "")) if started else ""
    known: dict[str, tuple[str, str]] = {}
    findings = []
    for event in events:
        snapshot, told = str(event.payload.get("snapshot")), event.payload["code_hash"]
        if snapshot not in known:
            known[snapshot] = _hash(run, snapshot, version)
        found, fault = known[snapshot]
        if found != told:
            reason = fault or f"that of its snapshot is {found[:12]}"
            findings.append(Finding(STORE, event.seq, f"{_name(event)} has code hash {str(told)[:12]}, {reason}"))
    return len(events), findings


def _hash(run: RunData, snapshot: str, version: str) -> tuple[str, str]:
    """The code hash of a snapshot, and why there is none."""
    if not run.paths.objects.is_dir():
        return "", "the object store is missing"
    try:
        return code_hash(ObjectStore(run.paths.objects).get_tree(snapshot), version), ""
    except (ObjectError, WireError, RefusedError) as error:
        return "", f"its snapshot has none: {error}"


def audit_seal(run: RunData) -> tuple[int, list[Finding]]:
    """Sealed records are those of the finalists that were frozen before, with the comparisons that were declared.

    A person's own records (no researcher) are not part of the campaign's seal.
    """
    frozen, sealed = run.events(STORE, "finalists_frozen"), run.events(STORE, "sealed")
    records = [event for event in run.events(STORE, "record") if _is_claim(event.payload)]
    findings = [Finding(STORE, event.seq, "finalists are frozen a second time") for event in frozen[1:]]
    if not frozen:
        findings += [Finding(STORE, e.seq, f"{_name(e)} is sealed, no finalists were frozen") for e in records[:1]]
        return len(records), findings
    declared = {tuple(map(str, row)) for row in frozen[0].payload.get("comparisons") or ()}
    findings += _frozen(frozen[0], declared)
    seen: dict[tuple[str, str], Event] = {}
    for event in records:
        who = (str(event.payload.get("code_hash")), str(event.payload.get("domain")))
        reason = _unsealed(event, frozen[0], who, declared)
        if who in seen:
            reason = f"is a second one for its domain, after event {seen[who].seq}"
        seen.setdefault(who, event)
        if reason is not None:
            findings.append(Finding(STORE, event.seq, f"{_name(event)} {reason}"))
    missing = {(code, domain) for code, _, domain in declared} - seen.keys()
    if sealed and missing:
        code, domain = min(missing)
        findings.append(Finding(STORE, sealed[0].seq, f"finalist {code[:12]} has no sealed record on {domain}"))
    told = {str(event.payload.get("record_id")) for event in records}
    if sealed and set(sealed[0].payload.get("records") or ()) != told:
        findings.append(Finding(STORE, sealed[0].seq, "the records that it names are not the sealed ones"))
    return len(records) + len(frozen), findings


def _is_claim(record: dict[str, Any]) -> bool:
    return record.get("tier") == "seal" and record.get("researcher") not in ("", CAMPAIGN)


def _name(event: Event) -> str:
    return f"record {event.payload.get('record_id')}"


def _frozen(event: Event, declared: set[tuple[str, ...]]) -> Iterator[Finding]:
    finalists = {str(one.get("code_hash")) for one in event.payload.get("finalists") or ()}
    dropped = {str(one.get("code_hash")) for one in event.payload.get("dropped") or ()}
    if {row[0] for row in declared} != finalists:
        yield Finding(STORE, event.seq, "the comparisons that it declares are not those of its finalists")
    for code in sorted(finalists & dropped):
        yield Finding(STORE, event.seq, f"{code[:12]} is a finalist and was dropped")
    for code in sorted(finalists - set(map(str, event.payload.get("audited") or ()))):
        yield Finding(STORE, event.seq, f"finalist {code[:12]} was not audited")


def _unsealed(event: Event, frozen: Event, who: tuple[str, str], declared: set[tuple[str, ...]]) -> str | None:
    if event.seq < frozen.seq:
        return "is older than the finalists"
    wanted = {name for one, name, where in declared if (one, where) == who}
    if not wanted:
        return f"is of no finalist that was frozen for {who[1]}"
    told = {str(c.get("versus")) for c in event.payload.get("comparisons") or ()}
    return None if told == wanted else f"compares with {sorted(told)}, declared were {sorted(wanted)}"


def audit_claims(run: RunData) -> tuple[int, list[Finding]]:
    """Whoever is said to beat a baseline does so by the record's own numbers, grade, size and audits."""
    events = run.events(STORE, "record")
    ahead = {
        (str(e.payload.get("code_hash")), str(e.payload.get("domain")), str(c.get("versus")))
        for e in events
        for c in e.payload.get("comparisons") or ()
        if _is_claim(e.payload) and e.payload.get("sandbox_grade") == VERIFIED_GRADE and (c.get("diff") or 0.0) > 0
    }
    looked, findings = 0, list[Finding]()
    for event in events:
        record = event.payload
        standing = record.get("standing") or {}
        rows = [standing, *(record.get("comparisons") or ())]
        looked += 1
        reasons = [reason for row in rows if (reason := _short(record, row, ahead)) is not None]
        if record.get("status") != standing.get("word"):
            reasons.append(f"has status {record.get('status')!r}, its standing says {standing.get('word')!r}")
        if reasons:
            findings.append(Finding(STORE, event.seq, f"{_name(event)} {reasons[0]}"))
    return looked, findings


def _short(record: dict[str, Any], row: dict[str, Any], ahead: set[tuple[str, str, str]]) -> str | None:
    """What a standing that says "beats" lacks, or `None`."""
    word, versus, domain = str(row.get("word")), str(row.get("versus")), str(record.get("domain"))
    if not word.startswith(BEATS):
        return None
    here, p, interval = f"{BEATS}{versus} on {domain}", row.get("p"), row.get("interval")
    elsewhere = {where for code, where, name in ahead if (code, name) == (record.get("code_hash"), versus)} - {domain}
    outcomes = {str(audit.get("outcome")) for audit in record.get("audits") or ()}
    lacks = {
        f"which names neither {versus} nor {domain}": word in (here, f"{BEATS}{versus}"),
        "and is not ahead in another domain": word == here or bool(elsewhere),
        "and is not sealed": record.get("tier") == "seal",
        f"with sandbox grade {record.get('sandbox_grade')}": record.get("sandbox_grade") == VERIFIED_GRADE,
        f"with {record.get('seeds')} seeds and {record.get('n')} items": enough(
            int(record.get("seeds") or 0), int(record.get("n") or 0)
        ),
        f"with p = {p}": isinstance(p, float) and p < ALPHA,
        f"with an interval of {interval}": isinstance(interval, list) and len(interval) == 2 and interval[0] > 0,
        "without an audit": bool(outcomes),
        "with an audit that it did not pass": not outcomes & {"fail", "open"},
    }
    short = next((reason for reason, holds in lacks.items() if not holds), None)
    return None if short is None else f"says {word!r} {short}"
