"""Does a run directory hold together? Journals, tables, files, ledger, leases, records and posts against each other.

Promises: needs no Ray, writes nothing, and works while the campaign runs: journals are read so that what one refers to
was read after it. The first broken event of each check is named by store and number. The first line of the report says
in which state the run is and what is not covered in it: of a run that is closed, nothing but locks and SQLite's side
files. What it cannot know: whoever can write all journals and holds the evaluator's key can write another, consistent
history; the key as it was published, and an anchor that somebody else keeps, are against that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.observer.anchor_file import audit_facts
from actors.observer.audit_calls import audit_calls
from actors.observer.audit_claims import audit_claims, audit_code, audit_seal
from actors.observer.audit_closing import audit_closing
from actors.observer.audit_derived import derive_again
from actors.observer.audit_figures import audit_figures
from actors.observer.audit_files import (
    audit_cases,
    audit_config,
    audit_keys,
    audit_objects,
    audit_public,
    audit_revealed,
)
from actors.observer.audit_ledger import audit_leases, audit_rules, audit_tables
from actors.observer.audit_records import audit_posts, audit_records
from actors.observer.audit_seeds import audit_grounds, audit_seeds
from actors.observer.audit_tables import Compared, compare_tables
from actors.observer.coverage import state_of, uncovered
from actors.observer.finding import Finding
from actors.observer.run_data import RunData, load_run

MAX_SHOWN = 5
"""Findings of one check that are printed; `to_dict` has all."""
Outcome = tuple[int, list[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of check: how many things it looked at, and what it found broken, first event first."""

    name: str
    looked_at: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome of all checks of a campaign, its `state`, and what is `uncovered` in it."""

    campaign: str
    checks: tuple[Check, ...]
    state: str = ""
    uncovered: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def first(self) -> Finding | None:
        """The first finding: by check, in their order."""
        return next((check.findings[0] for check in self.checks if check.findings), None)

    @property
    def title(self) -> str:
        """The first line: whose verification it is, in which state the run is, and what is not covered."""
        state = f" ({self.state})" if self.state else ""
        limits = f"; not covered: {'; '.join(self.uncovered)}" if self.uncovered else ""
        return f"Verification of {self.campaign}{state}{limits}"

    def text(self) -> str:
        """For a terminal: one line per check, every finding below its check, the first broken event at the end."""
        lines = [self.title]
        for check in self.checks:
            lines.append(f"  {'ok  ' if check.ok else 'FAIL'}  {check.name} ({check.looked_at})")
            lines += [f"        {finding}" for finding in check.findings[:MAX_SHOWN]]
            if len(check.findings) > MAX_SHOWN:
                lines.append(f"        and {len(check.findings) - MAX_SHOWN} more")
        lines.append("All checks hold." if self.first is None else f"First broken: {self.first}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, also for `--json`."""
        checks = [
            {"name": c.name, "ok": c.ok, "looked_at": c.looked_at, "findings": [f.to_dict() for f in c.findings]}
            for c in self.checks
        ]
        first = None if self.first is None else self.first.to_dict()
        return {"campaign": self.campaign, "ok": self.ok, "first": first, "checks": checks}


def verify_run(
    run_dir: Path,
    *,
    key: str | None = None,
    anchor: dict[str, Any] | None = None,
    going_on: bool | None = None,
) -> VerifyReport:
    """Check the campaign in `run_dir`. Raises `NoRunError` when there is none.

    `key` is the evaluator's public key as it was published at the start; `anchor` what `read_anchor` gives;
    `going_on`, whether somebody still works on the run, is looked up when it is `None`.
    """
    run = load_run(run_dir)
    state = state_of(run, going_on)
    compared = compare_tables(run)
    closing = audit_closing(run, _key(run, key), state.to_be_closed)
    derived = derive_again(run, closing.intact)
    journals = _journal_checks(run, key, compared)
    checks = [
        *journals,
        _check("heads in the summary", audit_summary_heads(run)),
        _check("what people read, derived again", (derived.looked_at, [*derived.findings, *_told(run, journals)])),
        _check("closing", closing.outcome(derived.same)),
    ]
    if anchor is not None:
        checks.append(_check("anchor", _anchor(run, anchor)))
    return VerifyReport(run.name, tuple(checks), str(state), tuple(uncovered(run, state, compared, derived)))


def verify_journals(run: RunData) -> VerifyReport:
    """The checks that hold for a run before anything is derived from it."""
    return VerifyReport(run.name, tuple(_journal_checks(run, None, compare_tables(run))))


def _journal_checks(run: RunData, key: str | None, compared: dict[str, Compared]) -> list[Check]:
    audits: tuple[tuple[str, Callable[[RunData], Outcome]], ...] = (
        ("journal chains", audit_chains),
        ("anchored heads", audit_anchors),
        ("configuration", audit_config),
        ("the evaluator's key", lambda run: audit_keys(run, key)),
        ("rules of the ledger", audit_rules),
        ("balances and reservations", audit_tables),
        ("leases and settlements", audit_leases),
        ("calls of models and settlements", audit_calls),
        ("records", audit_records),
        ("figures of records", audit_figures),
        ("grades and costs of records", audit_grounds),
        ("seeds of records", audit_seeds),
        ("code of records", audit_code),
        ("finalists and sealed records", audit_seal),
        ("claims of records", audit_claims),
        ("records in posts", audit_posts),
        ("tables and journals", lambda _: _compared(compared)),
        ("objects", audit_objects),
        ("public files", audit_public),
        ("case files", audit_cases),
        ("the revealed secret", audit_revealed),
    )
    return [_check(name, audit(run)) for name, audit in audits]


def _check(name: str, outcome: Outcome) -> Check:
    return Check(name, outcome[0], tuple(outcome[1]))


def _compared(compared: dict[str, Compared]) -> Outcome:
    return sum(one.rows for one in compared.values()), [f for one in compared.values() for f in one.findings]


def _key(run: RunData, given: str | None) -> str | None:
    """The key that must have signed: as it was given, else as the first event pins it, else that of `evaluator.pub`."""
    pinned = [
        str(event.payload["public_key"])
        for store, kind in (("director", "campaign_started"), ("evaluator", "evaluator_started"))
        for event in run.events(store, kind)
        if event.payload.get("public_key")
    ]
    file = [] if run.public_key is None else [run.public_key.decode("ascii", "replace").strip()]
    return next(iter([*([] if given is None else [given]), *pinned, *file]), None)


def _told(run: RunData, journals: list[Check]) -> list[Finding]:
    """The verification that the summary tells is the one that the same journals give now."""
    try:
        summary = json.loads(run.paths.summary.read_bytes())
        told, heads = summary["verification"], summary["chain_heads"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    now = {name: {"seq": data.head_seq, "hash": data.head} for name, data in run.stores.items()}
    if heads != now or told == VerifyReport(run.name, tuple(journals)).to_dict():
        return []
    return [Finding("files", None, f"{run.paths.summary.name} tells of another verification")]


def _anchor(run: RunData, anchor: dict[str, Any]) -> Outcome:
    findings = audit_facts(run, anchor)
    for name, head in anchor["heads"].items():
        reason = _off_chain(run, name, head, "the anchor")
        if reason is not None:
            findings.append(Finding(name, *reason))
    return len(anchor["heads"]), findings


def audit_chains(run: RunData) -> tuple[int, list[Finding]]:
    """Every journal's chain of hashes."""
    broken = [(data.name, data.broken) for data in run.stores.values() if data.broken is not None]
    looked = sum(len(data.events) for data in run.stores.values())
    return looked, [Finding(name, fault.seq, fault.reason) for name, fault in broken]


def audit_anchors(run: RunData) -> tuple[int, list[Finding]]:
    """Heads of other journals that the director wrote down are on those journals' chains."""
    if "director" not in run.stores:
        others = any(data.events for data in run.stores.values())
        return 0, [Finding("director", None, "its database is missing, other journals are there")] if others else []
    looked, findings = 0, dict[str, Finding]()
    for event in run.events("director", "anchor"):
        for name, head in event.payload.items():
            looked += 1
            reason = _off_chain(run, name, head, f"event {event.seq} of the director's journal")
            if reason is not None and name not in findings:
                findings[name] = Finding(name, *reason)
    return looked, list(findings.values())


def audit_summary_heads(run: RunData) -> tuple[int, list[Finding]]:
    """Heads that the summary was made from are on the journals' chains (the director's, too)."""
    findings, looked = list[Finding](), 0
    for name, head in _summary_heads(run):
        looked += 1
        reason = _off_chain(run, name, head, run.paths.summary.name)
        if reason is not None:
            findings.append(Finding(name, *reason))
    return looked, findings


def _summary_heads(run: RunData) -> Iterator[tuple[str, Any]]:
    try:
        data = json.loads(run.paths.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    heads = data.get("chain_heads") if isinstance(data, dict) else None
    if isinstance(heads, dict):
        yield from heads.items()


def _off_chain(run: RunData, name: str, head: Any, source: str) -> tuple[int | None, str] | None:
    """Where and why a head is not on a journal's chain, or `None`. A chain that is broken before it is not judged."""
    if not isinstance(head, dict) or not isinstance(head.get("seq"), int):
        return None, f"the head in {source} is not readable"
    seq, digest = head["seq"], str(head.get("hash"))
    data = run.stores.get(name)
    if data is None:
        return (None, f"its database is missing; {source} knew {seq} events") if seq > 0 else None
    if seq == 0 or (data.broken is not None and seq > len(data.events)):
        return None
    if seq > len(data.events):
        return len(data.events), f"its tail is cut after this event; {source} knew {seq} events"
    if data.events[seq - 1].hash != digest:
        return seq, f"this event is not the one that {source} knew"
    return None
