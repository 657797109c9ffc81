"""Takes a submission from its first word to its answer.

Order, each step durable before the next: written and counted, charged, run, scored and answered. Whatever step a killed
evaluator stopped at, `carry_out` goes on from there and does nothing twice.
"""

from __future__ import annotations

import contextlib
from typing import Any

from actors.evaluator.answers import board_answer, copied, dev_answer
from actors.evaluator.audits.auditor import AuditReport
from actors.evaluator.board import Board, level_pgr
from actors.evaluator.domain_evaluator import DomainEvaluator
from actors.evaluator.entrants import Entrants
from actors.evaluator.jobs import Sizes
from actors.evaluator.records import Record, RecordBook
from actors.evaluator.result_store import ScoredRun
from actors.evaluator.scoring import Adjusted, Grounds, ReferenceScores, draft_record
from actors.evaluator.scoring_runs import Payer
from actors.evaluator.sealing import standings
from actors.evaluator.secret import Secret
from actors.evaluator.source import Method
from actors.evaluator.statistics import holm
from actors.evaluator.submissions import Submission, Submissions
from actors.evaluator.tiers import Tier, seeds_of
from actors.scheduler.client import SchedulerClient
from cluster.config import Scoring
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.money import Amounts, gpu_cost, gpu_ms
from cluster.names import researcher_account
from cluster.store import Store


class SubmissionHandler:
    """Carries out submissions on one domain."""

    def __init__(
        self,
        store: Store,
        scheduler: SchedulerClient,
        secret: Secret,
        scoring: Scoring,
        sizes: Sizes,
        usd_per_gpu_hour: int,
        domain_evaluator: DomainEvaluator,
        submissions: Submissions,
        board: Board,
        book: RecordBook,
        entrants: Entrants,
    ) -> None:
        self._store, self._scheduler, self._secret = store, scheduler, secret
        self._scoring, self._sizes, self._price = scoring, sizes, usd_per_gpu_hour
        self._domain_evaluator, self._submissions, self._board, self._book = domain_evaluator, submissions, board, book
        self._entrants = entrants

    async def evaluate(self, key: str, researcher: str, method: Method, tier: Tier) -> dict[str, Any]:
        """Open a submission, or find the one of this code, and carry it out."""
        limit = self._scoring.dev_limit if tier == "dev" else self._scoring.board_limit
        return await self.carry_out(
            self._submissions.begin(key, tier, self._domain_evaluator.domain, method, researcher, limit)
        )

    async def carry_out(self, submission: Submission) -> dict[str, Any]:
        """The answer to a submission. Raises `RefusedError` when an account or the scheduler refuses."""
        if submission.state == "answered":
            return submission.answer
        account = researcher_account(submission.researcher, "evaluations")
        try:
            if submission.state == "open":
                await self._charge(account, submission)
            (run,) = await self._domain_evaluator.runs([submission.method], submission.tier, Payer(account, "full"))
        except RefusedError as error:
            self._submissions.refuse(submission, error)
            raise
        return self._answer(submission, run)

    async def fine(self, key: str, researcher: str, refusal: RefusedError) -> None:
        """Journal a submission that is no method, and take the answer that it asked for, if one is left."""
        self._submissions.reject(key, researcher, refusal)
        account = researcher_account(researcher, "evaluations")
        with contextlib.suppress(RefusedError):
            note = f"refused submission: {refusal.reason}"
            await self._scheduler.spend(f"evaluator/refused/{researcher}/{key}", account, Amounts(answers=1), note)

    async def _charge(self, account: str, submission: Submission) -> None:
        """Take one answer from the account, unless the runs behind it could not be paid for anyway."""
        await self._check_means(account, submission.tier)
        note = f"{submission.tier} answer for {submission.method.code_hash[:12]}"
        key = f"evaluator/answer/{submission.id}"
        await self._scheduler.spend(key, account, Amounts(answers=1), note)
        self._submissions.charged(submission)

    async def _check_means(self, account: str, tier: Tier) -> None:
        chunks = self._sizes.chunks(range(seeds_of(tier, self._scoring)))
        seconds = [self._sizes.lease_seconds(len(chunk)) for chunk in chunks]
        worst = sum(gpu_ms(self._sizes.gpus, int(1000 * one)) for one in seconds)
        asked = {"gpu_ms": worst, "usd": gpu_cost(worst, self._price)}
        left = (await self._scheduler.balance(account)).left
        for dimension, amount in asked.items():
            room = getattr(left, dimension)
            if room is not None and room < amount:
                detail = {"account": account, "dimension": dimension, "left": room, "asked": amount}
                message = f"a {tier} run may take {amount} {dimension}, {max(room, 0)} are left on {account}"
                exceeded = LimitExceeded(dimension, account, room, amount, "ledger")
                raise RefusedError(Reason.OVER_BUDGET, message, detail, exceeded)

    def _answer(self, submission: Submission, run: ScoredRun) -> dict[str, Any]:
        """Score, record and answer in one transaction.

        Whoever says what an earlier method said gets that one's answer: noise is drawn once for both, and a place on
        the board is not tried for again. Only figures that rest on other failures are a copy's own.
        """
        tier, method = submission.tier, submission.method
        first = self._entrants.first(method, tier, self._submissions.answered(tier))
        again = first is not None and self._failures(first) == sorted(run.failures)
        bench = self._domain_evaluator.known_bench(tier)
        with self._store.transaction():
            key = f"{tier}/{bench.domain}/method/{method.code_hash}"
            record = record_method(self._book, key, bench, method, submission.researcher, run)
            if tier == "dev":
                used = self._submissions.used("dev")
                identity = method.identity if first is None else first.method.identity
                answer = dev_answer(self._secret, self._scoring, bench, run, record, used, identity)
            else:
                level = None
                if not again:
                    holder = self._holder(bench)
                    level = self._board.consider(bench, method.code_hash, run, holder, record.record_id)
                shown = None if level is None else level_pgr(bench, level)
                used, limit = self._submissions.used("board"), self._scoring.board_limit
                answer = board_answer(record, level, shown, used, limit)
            if first is not None and again:
                answer = copied(answer, first.answer)
            self._submissions.answer(submission, answer, record.record_id)
        return answer

    def _failures(self, submission: Submission) -> list[int]:
        record = self._book.get(submission.record_id)
        return [] if record is None else record.failed_seeds

    def _holder(self, bench: ReferenceScores) -> ScoredRun:
        ladder = self._board.state()
        assert ladder is not None, "the board starts when the campaign is prepared"
        run = self._domain_evaluator.counted.found(ladder.holder, bench.tier)
        assert run is not None, "the holder of the board was scored on it"
        return run


def record_method(
    book: RecordBook,
    key: str,
    bench: ReferenceScores,
    method: Method,
    researcher: str,
    run: ScoredRun,
    audit: AuditReport | None = None,
    opened: int = 0,
) -> Record:
    """Record one run by itself; its comparisons with the baselines are one family. `opened`: see `Grounds`."""
    compared = bench.against_baselines(run)
    adjusted = holm([c.p for c in compared.values()])
    tested = {name: Adjusted(c, p, len(compared)) for (name, c), p in zip(compared.items(), adjusted, strict=True)}
    found = standings(bench, run, tested, Grounds(audit, opened))
    return book.add(key, draft_record(bench, method, researcher, run, found, audit))
