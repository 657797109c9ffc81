"""One method at a time, for a person: exact scores, audits, replays. For run directories without researchers.

Promise: nothing here answers a researcher, and nothing is scored on a tier that a campaign still answers from, or with
a secret that is public.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from actors.evaluator.disqualification import Cases
from actors.evaluator.domain_evaluator import DomainEvaluator
from actors.evaluator.records import RecordBook
from actors.evaluator.result_store import ResultStore, ScoredRun
from actors.evaluator.scoring import ReferenceScores, draft_record, fixed
from actors.evaluator.scoring_runs import Payer
from actors.evaluator.sealing import record_references
from actors.evaluator.source import Method
from actors.evaluator.submission_handler import record_method
from actors.evaluator.submissions import Submissions
from actors.evaluator.tiers import TIERS, Tier
from actors.scheduler.client import SchedulerClient
from cluster.errors import Reason, RefusedError
from cluster.money import Caps
from cluster.names import BASELINES_ACCOUNT, CAMPAIGN, SCORE_ACCOUNT, RunPaths
from cluster.store import Store
from forum_actor.provenance import Provenance

PAYER = Payer(SCORE_ACCOUNT, "full")


class Scorer:
    """Scores single methods of one run directory; `read` gives the method of a snapshot, by a name for people."""

    def __init__(
        self,
        paths: RunPaths,
        scheduler: SchedulerClient,
        store: Store,
        read: Callable[[str, str], Method],
        result_store: ResultStore,
        submissions: Submissions,
        book: RecordBook,
        domain_evaluators: Mapping[str, DomainEvaluator],
        cases: Cases,
    ) -> None:
        self._paths, self._scheduler, self._store, self._read = paths, scheduler, store, read
        self._results, self._submissions, self._book = result_store, submissions, book
        self._domain_evaluators, self._cases = domain_evaluators, cases

    async def audit(self, snapshot: str, name: str, domain: str) -> dict[str, Any]:
        """Audit one method on one domain; `AuditReport` as plain data. Raises like `score`."""
        await self.score(snapshot, name, "board", domain)
        method, _, domain_evaluator = self._asked(snapshot, name, "board", domain)
        report = await domain_evaluator.audit(method, PAYER)
        with self._store.transaction():
            self._cases.open(method, "", {domain: report}, Provenance.read(self._paths.forum_db))
        return report.to_dict()

    async def score(self, snapshot: str, name: str, tier: str, domain: str) -> dict[str, Any]:
        """Score one method on one tier of one domain, exactly, against its baselines; the record as plain data.

        Exact figures of a tier that a campaign still answers from would wear it out. Only the first method that is
        scored on the sealed items can be said to beat a baseline. Raises `RefusedError`: bad_tier, unknown_domain,
        campaign_running, revealed, and those of a snapshot.
        """
        method, chosen, domain_evaluator = self._asked(snapshot, name, tier, domain)
        if self._paths.revealed.exists():
            raise RefusedError(
                Reason.REVEALED, "the secret of this run is public: score in a run of its own, or replay"
            )
        record_key = f"{tier}/{domain}/score/{method.code_hash}"
        found = self._book.by_key(record_key)
        if found is None:
            bench, run = await self._measured(method, chosen, domain_evaluator)
            audit = await domain_evaluator.audit(method, PAYER, (chosen,)) if chosen == "seal" else None
            with self._store.transaction():
                record_references(self._book, bench)
                opened = self._opened(chosen, domain)
                found = record_method(self._book, record_key, bench, method, "", run, audit, opened)
        return found.to_dict()

    async def replay(self, snapshot: str, name: str, tier: str, domain: str) -> dict[str, Any]:
        """The figures that a record of this method would have, without number, signature, audit and claim.

        For a run directory that was given the secret of another one, to see whether its numbers come again. Raises
        like `score`.
        """
        method, chosen, domain_evaluator = self._asked(snapshot, name, tier, domain)
        bench, run = await self._measured(method, chosen, domain_evaluator)
        draft = draft_record(bench, method, "", run, [fixed("replayed", run)])
        return {**draft.to_dict(), "seed_commitment": self._book.commitment(draft)}

    def _asked(self, snapshot: str, name: str, tier: str, domain: str) -> tuple[Method, Tier, DomainEvaluator]:
        """What a person asks for, checked."""
        if tier not in TIERS:
            raise RefusedError(Reason.BAD_TIER, f"tier {tier!r} is unknown; expected one of {', '.join(TIERS)}")
        if domain not in self._domain_evaluators:
            known = ", ".join(self._domain_evaluators)
            raise RefusedError(Reason.UNKNOWN_DOMAIN, f"domain {domain!r} is not in this run; expected one of {known}")
        if self._results.get("sealed") is None and any(self._submissions.used(t) for t in ("dev", "board")):
            raise RefusedError(Reason.CAMPAIGN_RUNNING, "this run still answers researchers; score in a run of its own")
        return self._read(snapshot, name), tier, self._domain_evaluators[domain]

    async def _measured(
        self, method: Method, tier: Tier, domain_evaluator: DomainEvaluator
    ) -> tuple[ReferenceScores, ScoredRun]:
        for account in (BASELINES_ACCOUNT, SCORE_ACCOUNT):
            await self._scheduler.open_account(f"evaluator/{account}", account, CAMPAIGN, Caps())
        bench, (run,) = await asyncio.gather(
            domain_evaluator.bench(tier, Payer(SCORE_ACCOUNT, "baseline")), domain_evaluator.runs([method], tier, PAYER)
        )
        return bench, run

    def _opened(self, tier: Tier, domain: str) -> int:
        """How many methods were scored on the sealed items of a domain; 0 for the other tiers."""
        if tier != "seal":
            return 0
        return sum(r.tier == "seal" and r.domain == domain and r.researcher != CAMPAIGN for r in self._book.all())
