"""Within and between records: each figure against those that it is made of, as far as they are public.

Accuracy is the mean over seeds, PGR is made of three accuracies, those of teacher and ceiling are the ones on record
for that tier and domain, a record's number and time are those of its event, and a rung of the ladder has the accuracy
of its record. Needs no secret: what a signature vouches for must be true as arithmetic, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from actors.observer.finding import Finding
from actors.observer.run_data import RunData
from cluster.journal import Event
from gpu_pool.weak_to_strong.pgr import pgr

STORE = "evaluator"
CLOSE = 1e-9
LATE_US = 60_000_000
"""A record is signed in the transaction that journals it; a loaded machine may take its time."""

UNSURE = ("undefined", "every seed failed")
"""Methods of an interval whose record may have no PGR although its ceiling is above its teacher."""


def audit_figures(run: RunData) -> tuple[int, list[Finding]]:
    """Every record, and every rung of the ladder."""
    events = run.events(STORE, "record")
    references = {
        (e.payload.get("tier"), e.payload.get("domain"), e.payload.get("method")): e.payload
        for e in events
        if not e.payload.get("code_hash")
    }
    findings = []
    for number, event in enumerate(events, start=1):
        reason = next(_faults(number, event, references), None)
        if reason is not None:
            findings.append(Finding(STORE, event.seq, f"record {event.payload.get('record_id')} {reason}"))
    return len(events), [*findings, *_rungs(run, events)]


def _faults(number: int, event: Event, references: dict[Any, dict[str, Any]]) -> Iterator[str]:
    record = event.payload
    try:
        if record["record_id"] != f"rec-{number:06d}":
            yield f"is number {number}"
        if not 0 <= event.at_us - record["created_us"] < LATE_US:
            yield "was not signed when it was journaled"
        yield from _accuracy(record)
        yield from _gap(record, references)
    except (KeyError, TypeError, ValueError) as error:
        yield f"lacks what its figures are made of: {error!r}"


def _accuracy(record: dict[str, Any]) -> Iterator[str]:
    per_seed, seeds, items = record["per_seed"], record["seeds"], record["n"]
    if len(per_seed) != seeds:
        yield f"has {seeds} seeds and {len(per_seed)} accuracies"
    elif not _same(record["accuracy"], math.fsum(per_seed) / seeds):
        yield f"has accuracy {record['accuracy']}, the mean of its seeds is {math.fsum(per_seed) / seeds}"
    if any(not _same(one * items, round(one * items), 1e-6) or not 0 <= one <= 1 for one in per_seed):
        yield f"has an accuracy of a seed that {items} items cannot give"
    if any(not isinstance(index, int) or not 0 <= index < seeds for index in record["failed_seeds"]):
        yield "has a failed seed that it has not"
    for interval, value in ((record["accuracy_interval"], record["accuracy"]), (record["interval"], record["pgr"])):
        if interval is not None and (value is None or not interval[0] - CLOSE <= value <= interval[1] + CLOSE):
            yield f"has {value} outside of its own interval"


def _gap(record: dict[str, Any], references: dict[Any, dict[str, Any]]) -> Iterator[str]:
    weak, ceiling = record["weak_accuracy"], record["ceiling_accuracy"]
    for name, value in (("weak", weak), ("ceiling", ceiling)):
        reference = references.get((record["tier"], record["domain"], name))
        if reference is not None and not _same(reference["accuracy"], value):
            yield f"has {name} accuracy {value}, on record is {reference['accuracy']}"
    whole = pgr(record["accuracy"], weak, ceiling)
    told = record["pgr"]
    unsure = told is None and record["interval"] is None and record["interval_method"] in UNSURE
    if unsure:
        return  # the gap is positive, but may be zero: only its variances, which are not public, could say more
    if (told is None) != math.isnan(whole) or (told is not None and not _same(told, whole)):
        yield f"has PGR {told}, its accuracies give {None if math.isnan(whole) else whole}"


def _rungs(run: RunData, events: list[Event]) -> Iterator[Finding]:
    records = {event.payload.get("record_id"): event.payload for event in events}
    for event in run.events(STORE, "ladder"):
        name = event.payload.get("record_id")
        if not name:
            continue
        record = records.get(name)
        if record is None:
            yield Finding(STORE, event.seq, f"the ladder rests on record {name}, which does not exist")
        elif record.get("code_hash") != event.payload.get("holder") or record.get("tier") != "board":
            yield Finding(STORE, event.seq, f"the holder of the ladder is not the method of record {name}")


def _same(one: float, other: float, within: float = CLOSE) -> bool:
    return math.isclose(one, other, rel_tol=0.0, abs_tol=within)
