"""The evaluator: prepares the task, answers submissions, seals, and keeps the books. Knows nothing of Ray.

Promises:
- A method is scored, never predictions: nothing that a caller passes is counted as an answer to an item.
- A submission is journaled and paid for before anything runs; failures count; the same code gets the same answer.
- After a restart at any point the next call goes on with what is missing: no lease is asked for under a new key, no
  answer is charged twice, no record is written twice.
- Truth stays in this process's memory, but for the files that a teacher's or ceiling's lease reads while it runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from actors.evaluator.answers import public_record, sized
from actors.evaluator.board import Board, level_pgr, rank_finalists
from actors.evaluator.disqualification import Cases
from actors.evaluator.domain_evaluator import DomainEvaluator
from actors.evaluator.entrants import Entrants
from actors.evaluator.file_domain import AnyDomain
from actors.evaluator.finalist_selection import Finalist, Finals
from actors.evaluator.jobs import Sizes
from actors.evaluator.lease_client import Joiner, LeaseClient
from actors.evaluator.models import Models
from actors.evaluator.pools import PoolReport
from actors.evaluator.practice import Practice
from actors.evaluator.records import Record, RecordBook, Signer
from actors.evaluator.reference_runs import Tools
from actors.evaluator.result_store import ResultStore
from actors.evaluator.scorer import Scorer
from actors.evaluator.scoring import DISQUALIFIED, gap_figures
from actors.evaluator.scoring_runs import Payer
from actors.evaluator.sealing import record_finalists, record_references, run_domain
from actors.evaluator.secret import Secret
from actors.evaluator.seeds import seed_commitment, seeds_are_shared, write_revealed
from actors.evaluator.source import Method, read_method
from actors.evaluator.splits import TASK_VERSION, TruthError
from actors.evaluator.submission_handler import SubmissionHandler
from actors.evaluator.submissions import Submissions
from actors.evaluator.tiers import TIERS, Tier, until_reply
from actors.evaluator.worlds import Scenery
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig, Scoring
from cluster.errors import Reason, RefusedError
from cluster.inventory import file_digests
from cluster.journal import Journal
from cluster.money import usd_from_decimal
from cluster.names import BASELINES_ACCOUNT, CAMPAIGN, RunPaths
from cluster.objects import ObjectStore
from cluster.store import Store
from gpu_pool.weak_to_strong.methods import BASELINES, path_of

DomainSource = Callable[[str], AnyDomain]
DomainEvaluatorMaker = Callable[
    [Tools, Models, ObjectStore, Scoring, dict[str, Method], int, Practice | None], DomainEvaluator
]


class Evaluator:
    """The evaluator of one campaign."""

    def __init__(
        self,
        paths: RunPaths,
        config: CampaignConfig,
        scheduler: SchedulerClient,
        store: Store,
        journal: Journal,
        domains: DomainSource,
        make_domain_evaluator: DomainEvaluatorMaker = DomainEvaluator,
    ) -> None:
        """Re-reads everything from disk; draws the pools (a second at most).

        `make_domain_evaluator` gives what has methods trained and scored; another one than the cluster's is for
        simulations.
        """
        self._paths, self._config, self._scheduler = paths, config, scheduler
        self._store, self._journal = store, journal
        paths.judge.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._shared_seeds = seeds_are_shared(store, paths.judge)
        self._secret = Secret.load_or_create(paths.judge / "secret.bin")
        signer = Signer.load_or_create(paths.signing_key)
        self._objects = ObjectStore(paths.objects)
        self._results = ResultStore(store, journal, self._secret)
        self._lease_client = LeaseClient(scheduler, store, paths.judge / "leases", paths.leases)
        self._book = RecordBook(store, journal, signer, partial(seed_commitment, self._secret))
        self._submissions = Submissions(store, journal)
        self._board = Board(store, journal)
        self._join = Joiner()
        self._price = usd_from_decimal(config.pool.usd_per_gpu_hour)
        pinned: dict[str, str] = store.once("baselines", lambda _: self._pin_baselines())
        self._baselines = {name: self._read(snapshot, name) for name, snapshot in pinned.items()}
        self._domains, self._make_domain_evaluator = domains, make_domain_evaluator
        self._domain_evaluators: dict[str, DomainEvaluator] = {
            name: self._domain_evaluator(name) for name in config.task.domains
        }
        for domain_evaluator in self._domain_evaluators.values():
            self._check_data(domain_evaluator)
        self._primary = self._domain_evaluators[config.task.domains[0]]
        self._entrants = Entrants(self._primary.counted.found, self._baselines.values())
        self._handler = SubmissionHandler(
            store,
            scheduler,
            self._secret,
            config.scoring,
            Sizes.of(config),
            self._price,
            self._primary,
            self._submissions,
            self._board,
            self._book,
            self._entrants,
        )
        self._cases = Cases(paths.cases, journal, self._objects, self._baselines, self._submissions)
        self._finals = Finals(
            store,
            journal,
            self._results,
            self._domain_evaluators,
            self._cases,
            paths.forum_db,
            list(self._baselines),
            config.scoring.finalists,
            self._entrants,
        )
        self._scorer = Scorer(
            paths,
            scheduler,
            store,
            self._read,
            self._results,
            self._submissions,
            self._book,
            self._domain_evaluators,
            self._cases,
        )
        self._resumed = False
        self._note = ""
        paths.public_key.write_text(signer.public_hex + "\n", encoding="ascii")
        store.once("started", lambda _: self._journal_start(signer.public_hex))

    def _journal_start(self, public_key: str) -> bool:
        commitment = {"secret_commitment": self._secret.commitment(), "public_key": public_key}
        self._journal.append("evaluator_started", {**commitment, "task_version": TASK_VERSION})
        return True

    def _pin_baselines(self) -> dict[str, str]:
        """Snapshots of the baselines; a campaign keeps those that it began with."""
        return {name: self._objects.put_tree({"method.py": path_of(name).read_bytes()}) for name in BASELINES}

    def _read(self, snapshot: str, name: str) -> Method:
        """See `read_method`; a campaign with seeds for each code knows no copies."""
        method = read_method(self._objects, snapshot, name, TASK_VERSION)
        return method if self._shared_seeds else replace(method, entrant="")

    def _check_data(self, domain_evaluator: DomainEvaluator) -> None:
        """The pools are those that the campaign began with. Raises `TruthError` when the library draws others now."""
        begun = self._store.once(f"data/{domain_evaluator.domain}", lambda _: domain_evaluator.data_version)
        if begun != domain_evaluator.data_version:
            raise TruthError(
                f"{domain_evaluator.domain}: the pools are not those that this campaign began with (data version "
                f"{begun}, now {domain_evaluator.data_version}); resume it with the library that began it, and its "
                "files as they were then"
            )

    def _journal_pools(self, name: str, report: PoolReport) -> bool:
        self._journal.append("pools_chosen", {"domain": name, **report.to_dict()})
        return True

    def _domain_evaluator(self, name: str) -> DomainEvaluator:
        scenery = Scenery(self._config, self._secret, self._lease_client, self._results, self._paths.judge)
        scene = scenery.scene(self._domains(name))
        report = scene.tools.splits.report
        if report is not None:
            self._store.once(f"pools/{name}", lambda _: self._journal_pools(name, report))
        return self._make_domain_evaluator(
            scene.tools,
            scene.models,
            self._objects,
            self._config.scoring,
            self._baselines,
            self._price,
            scene.practice,
        )

    # ---- prepare

    async def prepare(self) -> dict[str, Any]:
        """Models, teachers, ceilings and baselines of every tier that research needs; then the public files."""
        return await self._join.once("prepare", self._prepare)

    async def _prepare(self) -> dict[str, Any]:
        if not self._prepared():
            self._note = "preparing models, teachers and baselines"
            first, *others = self._domain_evaluators.values()
            payer = Payer(BASELINES_ACCOUNT, "baseline")
            (dev, board), _ = await asyncio.gather(
                asyncio.gather(first.bench("dev", payer), first.bench("board", payer)),
                asyncio.gather(first.ready_practice(), *(w.ready_models() for w in (first, *others))),
            )
            first.publish(self._paths.public)
            with self._store.transaction():
                for bench in (dev, board):
                    record_references(self._book, bench)
                self._board.start(board, self._config.scoring.board_limit)
                figures = {"dev": gap_figures(dev), "board": gap_figures(board)}
                event = {"domain": first.domain, "data_version": board.data_version, "figures": figures}
                self._results.put("prepared", event, {**event, "public": file_digests(self._paths.public)})
            self._note = ""
            self._lease_client.sweep()
        self._resume()
        return {"prepared": True, "task": self._task()}

    def _prepared(self) -> bool:
        return self._results.get("prepared") is not None

    def _resume(self) -> None:
        """Go on with submissions that a predecessor left open, once."""
        if self._resumed:
            return
        self._resumed = True
        for submission in self._submissions.open_ones():
            carry_out = partial(self._handler.carry_out, submission)
            work = self._join.once(_join_key(submission.tier, submission.method), carry_out)
            task = asyncio.ensure_future(work)
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    # ---- submissions

    async def submit(self, key: str, researcher: str, snapshot: str, name: str, tier: str) -> dict[str, Any]:
        """Score a snapshot on `dev` or `board` and wait for the answer (see `answers`).

        Answers are of one size and given at fixed times, so that neither tells how a run went.

        Raises `RefusedError`: bad_tier, key_reused (the key stands for another submission), unknown_snapshot,
        too_large, bad_method, closed (SEAL has begun),
        tier_exhausted, over_budget, and whatever else the scheduler refuses with. One answer is charged for what is no
        method (too_large, bad_method), and from the moment that the scheduler takes a run, whatever becomes of it.
        """
        if tier not in ("dev", "board"):
            raise RefusedError(Reason.BAD_TIER, f"tier {tier!r} takes no submissions; expected dev or board")
        asked = {"researcher": researcher, "snapshot": snapshot, "name": name, "tier": tier}
        self._store.once(f"submit/{key}", lambda _: True, asked=asked)
        earlier = self._submissions.by_key(key)
        if earlier is not None and earlier.state == "refused":
            raise earlier.refusal()
        try:
            method = self._read(snapshot, name)
        except RefusedError as refusal:
            if refusal.reason is not Reason.UNKNOWN_SNAPSHOT:
                await self._handler.fine(key, researcher, refusal)
            raise
        chosen = cast(Tier, tier)
        known = self._submissions.of_method(chosen, self._primary.domain, method)
        if known is not None and known.state == "answered":
            return sized(known.answer)
        if known is None and self._finals.order() is not None:
            raise RefusedError(
                Reason.CLOSED, "the candidates for SEAL are frozen: no more submissions in this campaign"
            )
        await self.prepare()
        answer = await self._join.once(
            _join_key(chosen, method), lambda: self._handler.evaluate(key, researcher, method, chosen)
        )
        await asyncio.sleep(until_reply(time.monotonic(), self._config.scoring.reply_seconds))
        return sized(answer)

    # ---- seal

    def finalists(self) -> list[dict[str, Any]]:
        """The frozen finalists; before, those that would be frozen now if none failed its audit."""
        order = self._finals.order() or self._candidates()
        leaders = self._entrants.leaders([candidate.method for candidate in order])
        distinct = [c for c in order if leaders[c.method.code_hash] is c.method]
        first = distinct[: self._config.scoring.finalists]
        frozen = self._finals.frozen()
        return [finalist.to_dict() for finalist in (first if frozen is None else frozen)]

    def _candidates(self) -> list[Finalist]:
        pairs = [
            (s, self._book.get(s.record_id)) for tier in ("dev", "board") for s in self._submissions.answered(tier)
        ]
        scored = [(submission, record) for submission, record in pairs if record is not None]
        holders = [record_id for record_id, _ in self._board.rungs()]
        excluded = {s.method.code_hash for s, _ in scored if self._entrants.baseline(s.method) is not None}
        ranked = rank_finalists(scored, holders, excluded)
        return [Finalist(submission.method, submission.researcher) for submission in ranked]

    async def seal(self) -> dict[str, Any]:
        """Audit and freeze the finalists, score them and the baselines on the sealed items of every domain, once.

        Then the secret is revealed: nothing is scored with it any more, and everybody can check and run again what was.
        """
        body = await self._join.once("seal", self._seal)
        self._store.once("revealed", lambda _: self._journal_reveal())
        if not self._paths.revealed.exists():
            write_revealed(self._paths.revealed, self._secret)
        return body

    def _journal_reveal(self) -> bool:
        self._journal.append("secret_revealed", {"secret_commitment": self._secret.commitment()})
        return True

    async def _seal(self) -> dict[str, Any]:
        stored = self._results.get("sealed")
        if stored is not None:
            return stored
        await self.prepare()
        order = self._finals.close(self._candidates)
        self._note = f"auditing the first of {len(order)} candidates, sealing baselines and finalists"
        chosen = asyncio.ensure_future(self._finals.choose(order))
        sealing = (run_domain(domain_evaluator, chosen) for domain_evaluator in self._domain_evaluators.values())
        finalists, domains = await asyncio.gather(chosen, asyncio.gather(*sealing))
        with self._store.transaction():
            for sealed in domains:
                record_references(self._book, sealed.bench)
            records = record_finalists(self._book, domains, finalists)
            task = {sealed.bench.domain: gap_figures(sealed.bench) for sealed in domains}
            body = {"records": [r.record_id for r in records], "rows": self._rows(), "task": task}
            self._journal.append("sealed", {"records": body["records"], "task": task})
            self._results.put("sealed", body, {})
        self._note = ""
        self._lease_client.sweep()
        return body

    # ---- one method, for a person

    async def audit(self, snapshot: str, name: str, domain: str) -> dict[str, Any]:
        """See `Scorer.audit`."""
        return await self._scorer.audit(snapshot, name, domain)

    async def score(self, key: str, snapshot: str, name: str, tier: str, domain: str) -> dict[str, Any]:
        """See `Scorer.score`."""
        return await self._scorer.score(snapshot, name, tier, domain)

    async def replay(self, snapshot: str, name: str, tier: str, domain: str) -> dict[str, Any]:
        """See `Scorer.replay`."""
        return await self._scorer.replay(snapshot, name, tier, domain)

    # ---- reading

    def leaderboard(self) -> list[dict[str, Any]]:
        """Public rows: after SEAL the sealed records by lower bound, before it baselines and holders of the board."""
        sealed = self._results.get("sealed")
        return self._rows() if sealed is None else cast(list[dict[str, Any]], sealed["rows"])

    def _rows(self) -> list[dict[str, Any]]:
        shown = [r for r in self._book.all() if r.tier in ("board", "seal")]
        if any(record.tier == "seal" for record in shown):
            shown = [record for record in shown if record.tier == "seal"]
        holders, off = {record_id for record_id, _ in self._board.rungs()}, self._cases.off_the_board()
        climbed = [r for r in shown if r.record_id in holders and r.code_hash not in off]
        rows = [r for r in shown if r.tier == "seal" or r.researcher == CAMPAIGN or r in climbed]
        first = self._primary.domain
        return sorted(self._public(rows), key=lambda row: (row["domain"] != first, row["domain"], -_lower(row)))

    def record_summaries(self, record_ids: list[str]) -> list[dict[str, Any]]:
        """The public side of records, for posts."""
        return self._public(self._book.some(record_ids))

    def _public(self, records: list[Record]) -> list[dict[str, Any]]:
        answers = {s.record_id: s.answer for t in TIERS for s in self._submissions.answered(t)}
        return [public_record(record, answers.get(record.record_id)) for record in records]

    def record(self, record_id: str) -> dict[str, Any] | None:
        """A whole record, exact figures included: for people and reports, not for researchers."""
        found = self._book.get(record_id)
        return None if found is None else found.to_dict()

    def records(self) -> list[dict[str, Any]]:
        """All whole records, oldest first: for people and reports, not for researchers."""
        return [record.to_dict() for record in self._book.all()]

    def _task(self) -> dict[str, Any]:
        sealed, prepared = self._results.get("sealed"), self._results.get("prepared")
        if sealed is not None:
            return cast(dict[str, Any], sealed["task"])
        return {} if prepared is None else {prepared["domain"]: prepared["figures"]["board"]}

    def status(self) -> dict[str, Any]:
        """Progress, wear of the tiers, the board's level, the task's gap. Nothing that a researcher may not know."""
        scoring, ladder = self._config.scoring, self._board.state()
        limits: dict[Tier, int] = {"dev": scoring.dev_limit, "board": scoring.board_limit}
        level = None if ladder is None else level_pgr(self._primary.known_bench("board"), ladder.level)
        return {
            "note": self._note,
            "prepared": self._prepared(),
            "frozen": self._finals.frozen() is not None,
            "sealed": self._results.get("sealed") is not None,
            "wear": {t: {"used": self._submissions.used(t), "limit": most} for t, most in limits.items()},
            "open": len(self._submissions.open_ones()),
            "best": None if level is None else f"PGR {level:.2f}",
            "board": {"level": None if ladder is None else round(ladder.level, 4), "pgr": level},
            "board_moved_us": self._board.moved_us(),
            "task": self._task(),
        }


def _join_key(tier: Tier, method: Method) -> str:
    return f"submission/{tier}/{method.identity}"


def _lower(row: dict[str, Any]) -> float:
    if row["status"] == DISQUALIFIED:
        return -1e12
    if row["interval"] is not None:
        return float(row["interval"][0])
    return -1e9 if row["pgr"] is None else float(row["pgr"])
