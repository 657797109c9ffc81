"""The auditor: runs the trials of one method, scores them, keeps the report.

Each method is audited once per domain, in two leases; what a restart finds finished is not run again. The trials are
scored on the items of BOARD, which no method sees, and on the training pool; their answers leave as verdicts only. No
sealed item is asked about. In a domain where the method was never run, its students of the two pools stand for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.evaluator.audits.material import Material
from actors.evaluator.audits.trial_runs import Said, TrialRuns, canary_score
from actors.evaluator.audits.trials import POOL_A, POOL_B, TRIALS
from actors.evaluator.audits.verdicts import Evidence, Outcome, Spread, Verdict, overall, verdicts
from actors.evaluator.lease_client import Joiner
from actors.evaluator.reference_runs import ReferenceRuns, Tools
from actors.evaluator.result_store import ScoredRun, Usage
from actors.evaluator.scoring_runs import Payer
from actors.evaluator.source import Method, program_bytes
from actors.evaluator.statistics.influence import Influence
from cluster.objects import ObjectStore

LEASES = 2
AUDITED = 2
"""Candidates that are audited at most, for each place in SEAL."""


@dataclass(frozen=True, slots=True)
class InEarnest:
    """What is known of a method from its counted runs: the runs, the spread between seeds, whether it is too good.

    `influence` is that of the runs' teachers, on a task from files. In a domain where it was never run there are no
    runs, and nothing to hold against the ceiling or its teachers (`None`).
    """

    run: ScoredRun | None
    spread: Spread
    above_ceiling: bool | None
    influence: Influence | None = None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All verdicts on one method, and what they cost."""

    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "outcome": self.outcome,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "usage": self.usage.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AuditReport:
        """The inverse of `to_dict`."""
        found = tuple(Verdict(**verdict) for verdict in data["verdicts"])
        return cls(data["outcome"], found, Usage.from_dict(data["usage"]))


def _apart(said: dict[str, Said]) -> float | None:
    """The largest difference between what two students say of an item that both saw the same way round.

    Whoever says the same of all of those is one student.
    """
    if len(said) < 2:
        return None
    (one, turned), (other, turned_too) = said.values()
    alike = turned == turned_too
    return float(np.abs(one - other)[alike].max()) if alike.any() else None


class Auditor:
    """Audits methods on one domain."""

    def __init__(self, tools: Tools, shared: ReferenceRuns, objects: ObjectStore, material: Material) -> None:
        self._t, self._shared, self._objects = tools, shared, objects
        self._material = material
        self._join = Joiner()

    def known(self, code_hash: str) -> AuditReport | None:
        """The report on a method, if it was audited."""
        body = self._t.result_store.get(self._key(code_hash))
        return None if body is None else AuditReport.from_dict(body)

    def _key(self, code_hash: str) -> str:
        return f"audit/{self._t.domain}/{code_hash}"

    async def audit(self, method: Method, own: InEarnest, weak: ScoredRun, payer: Payer) -> AuditReport:
        """Audit a method; `weak` are the hits of BOARD's teachers. Raises as `LeaseClient.run`."""
        key = self._key(method.code_hash)
        return await self._join.once(key, lambda: self._audit(key, method, own, weak, payer))

    async def _audit(self, key: str, method: Method, own: InEarnest, weak: ScoredRun, payer: Payer) -> AuditReport:
        found = self.known(method.code_hash)
        if found is not None:
            return found
        await asyncio.gather(self._material.ready(), self._shared.features())
        runs = TrialRuns(self._t, self._shared, self._material, self._objects, method)
        parts = [TRIALS[start::LEASES] for start in range(LEASES)]
        done = await asyncio.gather(*(runs.run(f"{key}/{n}", part, payer) for n, part in enumerate(parts)))
        results = [findings.result for findings in done]
        hidden = {name: score for findings in done for name, score in findings.hidden.items()}
        taught = float(weak.hits[0].mean())
        pools = [hidden[name].accuracy for name in (POOL_A, POOL_B) if name in hidden]
        evidence = Evidence(
            own=own.run.mean if own.run is not None else float(np.mean(pools or [taught])),
            spread=own.spread,
            weak=taught,
            hidden=hidden,
            pool={name: score for findings in done for name, score in findings.pool.items()},
            canaries=canary_score([rows for findings in done for rows in findings.dev], self._t.splits),
            copies=next((findings.copies for findings in done if findings.copies is not None), None),
            above_ceiling=own.above_ceiling,
            unmoved=_apart({name: said for findings in done for name, said in findings.answers.items()}),
            disguised=self._t.disguise is not None,
            influence=own.influence,
            constants=program_bytes(self._objects.get_tree(method.snapshot)),
        )
        found_verdicts = tuple(verdicts(evidence))
        report = AuditReport(overall(found_verdicts), found_verdicts, Usage.of(results))
        body = report.to_dict()
        self._t.result_store.put(key, body, {"method": method.name, "snapshot": method.snapshot, **body})
        self._t.lease_client.discard(results)
        return report
