"""Does a run directory hold together? Journals, anchors, ledger, leases, records and posts against each other.

Promises: needs no Ray, writes nothing, and works while the campaign runs: journals are read so that what one refers to
was read after it. The first broken event of each check is named by store and number. What it cannot know: the end of
the director's journal, which no other journal anchors, is checked against `summary.json` alone; and whoever can write
all journals and holds the evaluator's key can write another, consistent history.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.observer.audit_calls import audit_calls
from actors.observer.audit_claims import audit_claims, audit_code, audit_seal
from actors.observer.audit_ledger import audit_leases, audit_rules, audit_tables
from actors.observer.audit_records import audit_posts, audit_records
from actors.observer.audit_seeds import audit_grounds, audit_seeds
from actors.observer.finding import Finding
from actors.observer.run_data import RunData, load_run
from cluster.text import visible_line

MAX_SHOWN = 5
"""Findings of one check that are printed; `to_dict` has all."""


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
    """The outcome of all checks of a campaign."""

    campaign: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def first(self) -> Finding | None:
        """The first finding: by check, in their order."""
        return next((check.findings[0] for check in self.checks if check.findings), None)

    def text(self) -> str:
        """For a terminal: one line per check, every finding below its check, the first broken event at the end."""
        lines = [f"Verification of {visible_line(self.campaign)}"]
        for check in self.checks:
            lines.append(f"  {'ok  ' if check.ok else 'FAIL'}  {check.name} ({check.looked_at})")
            lines += [f"        {visible_line(str(finding))}" for finding in check.findings[:MAX_SHOWN]]
            if len(check.findings) > MAX_SHOWN:
                lines.append(f"        and {len(check.findings) - MAX_SHOWN} more")
        lines.append("All checks hold." if self.first is None else f"First broken: {visible_line(str(self.first))}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, also for `--json`."""
        checks = [
            {"name": c.name, "ok": c.ok, "looked_at": c.looked_at, "findings": [asdict(f) for f in c.findings]}
            for c in self.checks
        ]
        first = None if self.first is None else asdict(self.first)
        return {"campaign": self.campaign, "ok": self.ok, "first": first, "checks": checks}


def verify_run(run_dir: Path) -> VerifyReport:
    """Check the campaign in `run_dir`. Raises `NoRunError` when there is none."""
    run = load_run(run_dir)
    audits: tuple[tuple[str, Callable[[RunData], tuple[int, list[Finding]]]], ...] = (
        ("journal chains", audit_chains),
        ("anchored heads", audit_anchors),
        ("heads in the summary", audit_summary_heads),
        ("rules of the ledger", audit_rules),
        ("balances and reservations", audit_tables),
        ("leases and settlements", audit_leases),
        ("calls of models and settlements", audit_calls),
        ("records", audit_records),
        ("grades and costs of records", audit_grounds),
        ("seeds of records", audit_seeds),
        ("code of records", audit_code),
        ("finalists and sealed records", audit_seal),
        ("claims of records", audit_claims),
        ("records in posts", audit_posts),
    )
    return VerifyReport(run.name, tuple(_check(name, audit(run)) for name, audit in audits))


def _check(name: str, outcome: tuple[int, list[Finding]]) -> Check:
    return Check(name, outcome[0], tuple(outcome[1]))


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
