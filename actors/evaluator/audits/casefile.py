"""The case file of a disqualified method: what a person needs to judge the evaluator.

`cases/<first 12 digits of the code hash>/` holds the method as it was submitted, its difference to the nearest
baseline, and `case.md` with every number and limit, who read its code, and what was built on it. It is written for
people; what counts stands in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.evaluator.audits.auditor import AuditReport
from actors.evaluator.source import Method
from cluster.difference import unified_diff
from cluster.objects import ObjectStore, safe_relative
from cluster.text import visible, visible_line

_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Case:
    """A method that failed its audit in one of the domains of `reports`.

    `readers` says who saw its code, and how; `built_on_it` are snapshots.
    """

    method: Method
    researcher: str
    reports: Mapping[str, AuditReport]
    readers: Mapping[str, Sequence[str]]
    built_on_it: Sequence[str]


def write_case(cases: Path, case: Case, objects: ObjectStore, baselines: Mapping[str, Method]) -> Path:
    """Write the case file; its folder. The same case again is the same folder."""
    method = case.method
    folder = cases / method.code_hash[:_DIGITS]
    files = objects.get_tree(method.snapshot)
    for path, data in files.items():
        target = folder / "code" / safe_relative(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    source = files["method.py"].decode("utf-8", "replace")
    name, diff = min(
        ((name, _diff(objects, known, name, source)) for name, known in baselines.items()), key=lambda d: len(d[1])
    )
    (folder / "difference.diff").write_text("\n".join(map(visible_line, diff)) + "\n", encoding="utf-8")
    head = [
        f"# {method.name}: disqualified",
        "",
        f"Submitted by {case.researcher or 'a person'}, audited on {', '.join(case.reports)}.",
        f"Code hash `{method.code_hash}`, snapshot `{method.snapshot}`.",
        "`code/` is what was submitted; what ran is the same without comments, docstrings and layout.",
        f"`difference.diff` is its difference to `{name}`, the nearest baseline.",
        "",
        "| domain | audit | outcome | measured | limit | what it says |",
        "|---|---|---|---|---|---|",
    ]
    rows = [
        f"| {domain} | {v.audit} | {v.outcome} | {_number(v.value)} | {_number(v.limit)} | {_cell(v.says)} |"
        for domain, report in case.reports.items()
        for v in report.verdicts
    ]
    leases = [lease for report in case.reports.values() for lease in report.usage.lease_ids]
    tail = [
        "",
        f"Leases of the trials: {', '.join(leases)}.",
        "",
        "Its code was seen by:",
        "",
        *([f"- {reader}: {', '.join(how)}" for reader, how in case.readers.items()] or ["- nobody else"]),
        "",
        "Built on it, and taken off the board with it:",
        "",
        *([f"- snapshot `{snapshot}`" for snapshot in case.built_on_it] or ["- nothing"]),
        "",
    ]
    (folder / "case.md").write_text(visible("\n".join([*head, *rows, *tail])), encoding="utf-8")
    return folder


def _diff(objects: ObjectStore, known: Method, name: str, source: str) -> list[str]:
    old = objects.get_tree(known.snapshot)["method.py"].decode("utf-8", "replace")
    return unified_diff(old, source, f"{name}.py", "method.py")


def _cell(text: str) -> str:
    """Words, in which a method's own error may be quoted, as one cell of a table."""
    return visible_line(" ".join(text.split())).replace("|", "\\|")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
