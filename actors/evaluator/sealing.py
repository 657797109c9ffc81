"""SEAL: the claim. Finalists are frozen (`finalist_selection`); all runs once on fresh teachers, seeds and items.

Promises: the finalists and every comparison that will be tested stand in the journal before a finalist's first sealed
run (the baselines, which nobody chooses, run while candidates are audited); Holm's correction is over all of them, in
all domains; the result is computed once and then only read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.evaluator.audits.auditor import AuditReport
from actors.evaluator.domain_evaluator import DomainEvaluator
from actors.evaluator.finalist_selection import FINALIST_PAYER, Finalist
from actors.evaluator.records import Record, RecordBook
from actors.evaluator.result_store import ScoredRun
from actors.evaluator.scoring import (
    BASELINE,
    REFERENCE,
    REFERENCE_BASELINE,
    VERIFIED_GRADE,
    Adjusted,
    Grounds,
    ReferenceScores,
    draft_record,
    fixed,
    standing,
)
from actors.evaluator.scoring_runs import Payer
from actors.evaluator.source import Method
from actors.evaluator.statistics import holm
from cluster.names import CAMPAIGN, SEAL_ACCOUNT

BASELINE_PAYER = Payer(SEAL_ACCOUNT, "baseline")


@dataclass(frozen=True, slots=True)
class SealedDomain:
    """The sealed runs of one domain and the audits there, of all finalists in their frozen order."""

    bench: ReferenceScores
    runs: list[ScoredRun]
    audits: list[AuditReport]


async def run_domain(domain_evaluator: DomainEvaluator, chosen: Awaitable[list[Finalist]]) -> SealedDomain:
    """Run the baselines on the sealed items of one domain, and the finalists as soon as they are chosen."""

    async def finalists() -> tuple[list[ScoredRun], list[AuditReport]]:
        methods = [finalist.method for finalist in await chosen]
        return await domain_evaluator.runs(methods, "seal", FINALIST_PAYER), [
            domain_evaluator.known_audit(m) for m in methods
        ]

    bench, (runs, audits) = await asyncio.gather(domain_evaluator.bench("seal", BASELINE_PAYER), finalists())
    return SealedDomain(bench, runs, audits)


def record_references(book: RecordBook, bench: ReferenceScores) -> list[Record]:
    """Records of weak, ceiling and the baselines on a bench, written once."""
    records = []
    for name, run in (("weak", bench.weak), ("ceiling", bench.ceiling)):
        draft = draft_record(bench, Method("", "", name), CAMPAIGN, run, [fixed(REFERENCE, run)])
        records.append(book.add(f"{bench.tier}/{bench.domain}/reference/{name}", draft))
    for name, (method, run) in bench.baselines.items():
        draft = draft_record(bench, method, CAMPAIGN, run, [fixed(BASELINE, run)])
        records.append(book.add(f"{bench.tier}/{bench.domain}/baseline/{name}", draft))
    return records


def standings(
    bench: ReferenceScores, run: ScoredRun, compared: Mapping[str, Adjusted], grounds: Grounds
) -> list[dict[str, Any]]:
    """The standing against each baseline, vanilla first."""
    names = sorted(compared, key=lambda name: (name != REFERENCE_BASELINE, name))
    return [standing(bench, run, name, compared[name], grounds) for name in names]


def record_finalists(book: RecordBook, domains: Sequence[SealedDomain], finalists: Sequence[Finalist]) -> list[Record]:
    """Records of all finalists in all domains, with one Holm correction over every declared comparison.

    What a domain says of a finalist rests on its audit there.
    """
    compared = _compared(domains)
    records = []
    for number, sealed in enumerate(domains):
        for index, (finalist, run) in enumerate(zip(finalists, sealed.runs, strict=True)):
            elsewhere = _elsewhere(domains, compared, index) if number == 0 else frozenset[str]()
            audit = sealed.audits[index]
            found = standings(sealed.bench, run, compared[number, index], Grounds(audit, elsewhere=elsewhere))
            draft = draft_record(sealed.bench, finalist.method, finalist.researcher, run, found, audit)
            key = f"seal/{sealed.bench.domain}/finalist/{finalist.method.code_hash}"
            records.append(book.add(key, draft))
    return records


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
