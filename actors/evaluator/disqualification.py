"""Cases: what follows when a method fails its audit. A file for people, an event that counts, and the board without it.

Promise: a case takes the method off the board, and everything that was built on it as far as the forum's journal tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from actors.evaluator.audits.auditor import AuditReport
from actors.evaluator.audits.casefile import Case, write_case
from actors.evaluator.source import Method
from actors.evaluator.submissions import Submissions
from cluster.inventory import file_digests
from cluster.journal import Journal
from cluster.objects import ObjectStore
from forum_actor.provenance import Provenance

KIND = "case_opened"


def failures(reports: Mapping[str, AuditReport]) -> str:
    """What a method failed in which domain, in words; nothing when it did not fail."""
    return "; ".join(
        f"{verdict.audit} on {domain}: {verdict.says}"
        for domain, report in reports.items()
        for verdict in report.verdicts
        if verdict.outcome == "fail"
    )


class Cases:
    """All cases of a campaign; `folder` is where their files go."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        objects: ObjectStore,
        baselines: Mapping[str, Method],
        submissions: Submissions,
    ) -> None:
        self._folder, self._journal, self._objects = folder, journal, objects
        self._baselines, self._submissions = baselines, submissions

    def open(self, method: Method, researcher: str, reports: Mapping[str, AuditReport], provenance: Provenance) -> None:
        """Open a case if the audit failed in one of the domains, in the caller's transaction."""
        if not failures(reports):
            return
        descendants = set(provenance.built_on(method.snapshot))
        scored = [s.method for tier in ("dev", "board") for s in self._submissions.answered(tier)]
        withdrawn = sorted({m.code_hash for m in scored if m.snapshot in descendants} - {method.code_hash})
        case = Case(method, researcher, reports, provenance.readers(method.snapshot), sorted(descendants))
        folder = write_case(self._folder, case, self._objects, self._baselines)
        event = {
            "code_hash": method.code_hash,
            "name": method.name,
            "snapshot": method.snapshot,
            "researcher": researcher,
            "failed": [
                {"domain": domain, **verdict.to_dict()}
                for domain, report in reports.items()
                for verdict in report.verdicts
                if verdict.outcome == "fail"
            ],
            "withdrawn": withdrawn,
            "read_by": dict(case.readers),
        }
        self._journal.append(KIND, {**event, "folder": folder.name, "files": file_digests(folder)})

    def off_the_board(self) -> set[str]:
        """Code hashes of methods that were disqualified, or were built on one."""
        cases = [event.payload for event in self._journal.events(kind=KIND)]
        return {code_hash for case in cases for code_hash in (case["code_hash"], *case["withdrawn"])}
