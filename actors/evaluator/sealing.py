"""SEAL: the claim. Finalists are frozen first, then everything runs once on fresh teachers, seeds and items.

Promises: the finalists and every comparison that will be tested stand in the journal before the first sealed run;
Holm's correction is over all of them, in all domains; the result is computed once and then only read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.evaluator.audits.auditor import AuditReport
from actors.evaluator.counted import Payer
from actors.evaluator.records import Record, RecordBook
from actors.evaluator.scoring import (
    BASELINE,
    REFERENCE,
    REFERENCE_BASELINE,
    VERIFIED_GRADE,
    Adjusted,
    Bench,
    Grounds,
    draft_record,
    fixed,
    standing,
)
from actors.evaluator.shelf import ScoredRun
from actors.evaluator.source import Method
from actors.evaluator.statistics import holm
from actors.evaluator.workshop import Workshop
from cluster.names import CAMPAIGN, SEAL_ACCOUNT
from forum_actor.provenance import Provenance

BASELINE_PAYER = Payer(SEAL_ACCOUNT, "baseline")
FINALIST_PAYER = Payer(SEAL_ACCOUNT, "full")


@dataclass(frozen=True, slots=True)
class Finalist:
    """A frozen method and who submitted it."""

    method: Method
    researcher: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "code_hash": self.method.code_hash,
            "snapshot": self.method.snapshot,
            "name": self.method.name,
            "researcher": self.researcher,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Finalist:
        """The inverse of `to_dict`."""
        return cls(Method(data["snapshot"], data["code_hash"], data["name"]), data["researcher"])


@dataclass(frozen=True, slots=True)
class SealedDomain:
    """The sealed runs of one domain, and the audits of the methods that were audited there, in their frozen order."""

    bench: Bench
    runs: list[ScoredRun]
    audits: list[AuditReport]


def declared(finalists: Sequence[Finalist], baselines: Sequence[str], domains: Sequence[str]) -> list[list[str]]:
    """Every comparison that SEAL will test: (code hash, baseline, domain)."""
    return [[f.method.code_hash, name, domain] for domain in domains for f in finalists for name in baselines]


async def run_domain(workshop: Workshop, finalists: Sequence[Finalist], audit: bool) -> SealedDomain:
    """Run baselines and finalists on the sealed items of one domain; `audit` the finalists there, too."""
    methods = [finalist.method for finalist in finalists]
    bench, runs = await asyncio.gather(
        workshop.bench("seal", BASELINE_PAYER), workshop.runs(methods, "seal", FINALIST_PAYER)
    )
    audited = methods if audit else []
    audits = await asyncio.gather(*(workshop.audit(method, "seal", FINALIST_PAYER) for method in audited))
    return SealedDomain(bench, runs, audits)


def record_references(book: RecordBook, bench: Bench) -> list[Record]:
    """Records of weak, ceiling and the baselines on a bench, written once."""
    records = []
    for name, run in (("weak", bench.weak), ("ceiling", bench.ceiling)):
        draft = draft_record(bench, Method("", "", name), CAMPAIGN, run, [fixed(REFERENCE, run)])
        records.append(book.add(f"{bench.tier}/{bench.domain}/reference/{name}", draft))
    for name, (method, run) in bench.baselines.items():
        draft = draft_record(bench, method, CAMPAIGN, run, [fixed(BASELINE, run)])
        records.append(book.add(f"{bench.tier}/{bench.domain}/baseline/{name}", draft))
    return records


def standings(bench: Bench, run: ScoredRun, compared: Mapping[str, Adjusted], grounds: Grounds) -> list[dict[str, Any]]:
    """The standing against each baseline, vanilla first."""
    names = sorted(compared, key=lambda name: (name != REFERENCE_BASELINE, name))
    return [standing(bench, run, name, compared[name], grounds) for name in names]


def record_finalists(
    book: RecordBook, domains: Sequence[SealedDomain], finalists: Sequence[Finalist], tainted: Mapping[str, str]
) -> list[Record]:
    """Records of all finalists in all domains, with one Holm correction over every declared comparison.

    Methods are audited on the first domain; what an audit says holds everywhere. `tainted` maps code hashes to the name
    of the disqualified method that they were built on.
    """
    compared = _compared(domains)
    records = []
    audits = domains[0].audits
    for number, sealed in enumerate(domains):
        for index, (finalist, run) in enumerate(zip(finalists, sealed.runs, strict=True)):
            elsewhere = _elsewhere(domains, compared, index) if number == 0 else frozenset[str]()
            built_on = tainted.get(finalist.method.code_hash, "")
            grounds = Grounds(audits[index], elsewhere=elsewhere, built_on=built_on)
            found = standings(sealed.bench, run, compared[number, index], grounds)
            draft = draft_record(sealed.bench, finalist.method, finalist.researcher, run, found, audits[index])
            key = f"seal/{sealed.bench.domain}/finalist/{finalist.method.code_hash}"
            records.append(book.add(key, draft))
    return records


def tainted(audits: Sequence[tuple[Finalist, AuditReport]], provenance: Provenance) -> dict[str, str]:
    """Code hashes of finalists that were built on one that failed its audit, with that one's name."""
    by_snapshot = {finalist.method.snapshot: finalist.method for finalist, _ in audits}
    return {
        by_snapshot[snapshot].code_hash: finalist.method.name
        for finalist, report in audits
        if report.outcome == "fail"
        for snapshot in provenance.built_on(finalist.method.snapshot)
        if snapshot in by_snapshot
    }


def _compared(domains: Sequence[SealedDomain]) -> dict[tuple[int, int], dict[str, Adjusted]]:
    """Every declared comparison by (domain, finalist) and baseline; all are one family."""
    raw = [
        (number, index, name, comparison)
        for number, sealed in enumerate(domains)
        for index, run in enumerate(sealed.runs)
        for name, comparison in sealed.bench.against_baselines(run).items()
    ]
    adjusted = holm([comparison.p for *_, comparison in raw])
    found: dict[tuple[int, int], dict[str, Adjusted]] = {}
    for (number, index, name, comparison), p in zip(raw, adjusted, strict=True):
        found.setdefault((number, index), {})[name] = Adjusted(comparison, p, len(raw))
    return found


def _elsewhere(
    domains: Sequence[SealedDomain], compared: Mapping[tuple[int, int], dict[str, Adjusted]], index: int
) -> frozenset[str]:
    """Baselines that a finalist is ahead of in a domain other than the first, in a verified sandbox."""
    verified = [n for n in range(1, len(domains)) if domains[n].runs[index].usage.sandbox_grade == VERIFIED_GRADE]
    return frozenset(
        name for n in verified for name, tested in compared[n, index].items() if tested.comparison.difference > 0
    )
