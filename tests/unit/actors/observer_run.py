"""A campaign on disk without a cluster: real stores, ledger, lease book, records and forum; invented numbers."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from actors.director.begun import pinned, publish_key
from actors.director.closing import close_run
from actors.evaluator.board import Board
from actors.evaluator.records import Record, RecordBook, Signer
from actors.evaluator.result_store import ResultStore
from actors.evaluator.secret import Secret
from actors.evaluator.seeds import seed_commitment, write_revealed
from actors.evaluator.source import Method, code_hash
from actors.evaluator.splits import TASK_VERSION
from actors.evaluator.submissions import Submissions
from actors.evaluator.tiers import Ladder
from actors.observer.write import write_all
from actors.researcher.runs import Runs
from actors.researcher.transcript import Transcript
from actors.researcher.types import Decision, ToolCall, ToolResult, TurnInput
from actors.scheduler.admission import check_request, cost_of
from actors.scheduler.book import Book
from actors.scheduler.ledger import Ledger
from cluster.config import CampaignConfig, dump_config, load_config
from cluster.inventory import file_digests
from cluster.journal import Journal, verify_chain
from cluster.money import Amounts, Caps
from cluster.names import RunPaths
from cluster.objects import ObjectStore
from cluster.store import Store, open_readonly
from forum_actor.code_store import CodeStore
from forum_actor.forum import Forum
from gpu_pool.leases import Job, LeaseKind, LeaseRequest, LeaseResult, Step
from gpu_pool.weak_to_strong.pgr import pgr as pgr_of

PRICE = 2_000_000
ITEMS = 5000
SEEDS = {"dev": 3, "board": 5, "seal": 10}
PASSED = {"audit": "null task", "outcome": "pass", "value": 0.5, "limit": 0.55, "says": "no leak of labels"}
CLOCKS = (
    "cluster.journal",
    "cluster.store",
    "actors.scheduler.ledger",
    "actors.scheduler.book",
    "actors.evaluator.records",
    "forum_actor.code_store",
    "actors.evaluator.board",
    "actors.evaluator.submissions",
    "actors.researcher.transcript",
)
METHODS = (
    "def train(run):\n    return run.strong().finetune(run.items, relabel(run.weak))\n",
    "def train(run):\n    weights = confidence_weights(run.weak)\n    return fit(run, weights)\n",
    "def train(run):\n    return ensemble([fit(run, seed) for seed in range(3)])\n",
    "def train(run):\n    return probe(run.hidden, run.prior)\n",
    "def train(run):\n    return fit(run, losses.logconf)\n",
)


class Synthetic:
    """Builds the run step by step; `second` is the campaign's clock. Call `close` before reading tables elsewhere."""

    def __init__(self, root: Path, researchers: int = 3) -> None:
        self.paths = RunPaths(root)
        root.mkdir(parents=True)
        self.start_us, self.second = 1_770_000_000_000_000, 0.0
        self._stack = ExitStack()
        for module in CLOCKS:
            self._stack.enter_context(patch(f"{module}.now_us", self.now))
        self.config = _config(researchers)
        self.used: dict[str, Amounts] = {}
        self.paths.config.write_text(dump_config(self.config))
        self.stores = {name: Store(path) for name, path in self._places()}
        self.journals = {name: Journal(store) for name, store in self.stores.items()}
        self.ledger = Ledger(self.stores["scheduler"], self.journals["scheduler"])
        self.book = Book(self.stores["scheduler"])
        _private(self.paths.signing_key)
        public = publish_key(self.paths)
        signer = Signer.load_or_create(self.paths.signing_key)
        self.secret = Secret.load_or_create(self.paths.judge / "secret.bin")
        facts = {"secret_commitment": self.secret.commitment(), "task_version": TASK_VERSION, "public_key": public}
        self.event("evaluator", "evaluator_started", **facts)
        commit = partial(seed_commitment, self.secret)
        evaluator = (self.stores["evaluator"], self.journals["evaluator"])
        self.shelf = ResultStore(*evaluator, self.secret)
        self.submissions, self.board = Submissions(*evaluator), Board(*evaluator)
        self.transcripts = {
            name: Transcript(self.stores[f"researcher/{name}"], self.journals[f"researcher/{name}"],
                             Runs(self.stores[f"researcher/{name}"]), name)
            for name in self.config.researcher_ids()
        }  # fmt: skip
        self.records = RecordBook(self.stores["evaluator"], self.journals["evaluator"], signer, commit)
        self.objects = ObjectStore(self.paths.objects)
        self.code = CodeStore(self.objects, self.stores["forum"], self.journals["forum"])
        self.forum = Forum(
            self.stores["forum"], self.journals["forum"], self.config.forum, self._lookup, self.code.has, self.now
        )

    def _places(self) -> list[tuple[str, Path]]:
        offices = {"director": self.paths.director_db, "scheduler": self.paths.scheduler_db}
        offices |= {"forum": self.paths.forum_db, "evaluator": self.paths.evaluator_db}
        team = {f"researcher/{name}": self.paths.researcher_db(name) for name in self.config.researcher_ids()}
        return list((offices | team).items())

    def now(self) -> int:
        return self.start_us + int(self.second * 1e6)

    async def _lookup(self, ids: list[str]) -> list[dict[str, Any]]:
        return [record.to_dict() for record in self.records.some(ids)]

    def event(self, store: str, kind: str, **payload: Any) -> None:
        self.journals[store].append(kind, payload)

    def open_accounts(self) -> None:
        self.ledger.open("campaign", None, self.config.budget.campaign.caps())
        for office in ("baselines", "seal"):
            self.ledger.open(f"campaign/{office}", "campaign", Caps())
        for name in self.config.researcher_ids():
            account = f"campaign/researcher/{name}"
            self.ledger.open(account, "campaign", self.config.budget.researcher.caps())
            for part in ("gpu", "evaluations"):
                self.ledger.open(f"{account}/{part}", account, Caps())

    def lease(
        self,
        account: str,
        kind: LeaseKind,
        gpus: float,
        start: float,
        seconds: float,
        slot: str = "slot-0",
        status: str = "done",
        label: str = "",
    ) -> str:
        """Request, grant, end and settle a lease from `start` on; its id."""
        self.second = start
        job = Job((Step("train", "method", {}, {}, {}, 60.0),))
        request = LeaseRequest(f"k{random.random()}", account, kind, gpus, seconds * 1.5, job, label)
        demand = check_request(request, PRICE)
        store, journal = self.stores["scheduler"], self.journals["scheduler"]
        with store.transaction():
            entry = self.book.add(request, demand, PRICE)
            facts = {"request_id": entry.request_id, "account": account, "kind": kind, "label": label, "gpus": gpus}
            self.ledger.reserve(entry.reservation, account, demand.worst)
            journal.append("lease_requested", {**facts, "reserved": demand.worst.to_dict()})
        with store.transaction():
            entry = self.book.grant(entry.request_id, slot, 1, False)
            journal.append(
                "lease_granted", {**facts, "lease_id": entry.lease_id, "slot": slot, "attempt": 1, "threads": 1}
            )
        self.second = start + seconds
        with store.transaction():
            gpu_ms = int(gpus * seconds * 1000)
            charged = self.ledger.settle(entry.reservation, cost_of(gpu_ms, PRICE))
            times = {"started_us": self.now() - int(seconds * 1e6), "ended_us": self.now()}
            result = LeaseResult.from_dict(
                {"lease_id": entry.lease_id, "status": status, "steps": [], "gpu_ms": gpu_ms, **times, "slot": slot,
                 "node": "n", "gpu_name": "logical", "sandbox_grade": "A", "probe_hash": "p"}
            )  # fmt: skip
            self.book.finish(entry.request_id, result, charged.gpu_ms, charged.usd)
            ended = {"lease_id": entry.lease_id, "slot": slot, "status": status, "sandbox_grade": "A", **times}
            journal.append("lease_ended", {**facts, **ended, "gpu_ms": charged.gpu_ms, "usd": charged.usd})
        self.used[entry.lease_id] = charged
        return entry.lease_id

    def record(self, method: str, tier: str, pgr: float, lease: str, **fields: Any) -> str:
        """A signed record; its id."""
        half = {"dev": 0.2, "board": 0.12, "seal": 0.07}[tier]
        by_definition = fields.get("status") == "reference"
        accuracy = round((0.7 + 0.18 * pgr) * ITEMS) / ITEMS
        pgr = pgr_of(accuracy, 0.7, 0.88)
        source = f"NAME = {method!r}\n{METHODS[0]}".encode()
        snapshot = fields.get("snapshot", "" if by_definition else self.objects.put_tree({"method.py": source}))
        standings = [_standing(fields.get("status", "tied"), accuracy, versus) for versus in ("vanilla", "confident")]
        sealed = tier == "seal" and "researcher" in fields
        draft = Record(
            method=method,
            researcher=fields.get("researcher", "campaign"),
            tier=tier,
            domain=fields.get("domain", "chat"),
            snapshot=snapshot,
            code_hash=self.hash_of(snapshot),
            accuracy=accuracy,
            accuracy_interval=[accuracy - 0.18 * half, accuracy + 0.18 * half],
            pgr=pgr,
            interval=None if by_definition else [pgr - half, pgr + half],
            interval_method="delta",
            weak_accuracy=0.7,
            ceiling_accuracy=0.88,
            seeds=SEEDS[tier],
            n=ITEMS,
            per_seed=[accuracy] * SEEDS[tier],
            failed_seeds=[],
            status=fields.get("status", "tied"),
            standing=standings[0],
            comparisons=standings if sealed else standings[:1],
            audits=[PASSED] if sealed else [],
            sandbox_grade="A",
            probe_hash="p",
            lease_ids=[lease],
            gpu_ms=self.used[lease].gpu_ms,
            cost=self.used[lease].usd,
            data_version="v1",
        )
        return self.records.add(f"{method}/{tier}/{draft.domain}/{random.random()}", draft).record_id

    def hash_of(self, snapshot: str) -> str:
        """The code hash of a snapshot; none for a reference."""
        return code_hash(self.objects.get_tree(snapshot), TASK_VERSION) if snapshot else ""

    def post(self, author: str, **draft: Any) -> None:
        asyncio.run(self.forum.post(f"k{random.random()}", author, {"kind": "insight", "body": "", **draft}))

    def anchor(self) -> None:
        heads = {}
        for name, path in self.paths.databases().items():
            if name != "director":
                db = open_readonly(path)
                report = verify_chain(db)
                heads[name] = {"seq": report.events, "hash": report.head}
                db.close()
        self.journals["director"].append("anchor", heads)

    def publish(self) -> None:
        """What is made when a campaign is prepared, and what an audit and leases leave."""
        public = self.paths.public / "chat"
        public.mkdir(parents=True)
        (public / "task.json").write_text('{"domain": "chat", "kind": "chat", "n_items": 3}')
        (public / "items.arrow").write_bytes(b"three items")
        self.shelf.put("prepared", {"domain": "chat"}, {"domain": "chat", "public": file_digests(self.paths.public)})
        self.shelf.put("audit/chat/0", {"outcome": "pass"}, {"outcome": "pass"})
        case = self.paths.cases / "0123456789ab" / "code"
        case.mkdir(parents=True)
        (case / "method.py").write_text("def train(run): ...\n")
        (case.parent / "case.md").write_text("# disqualified\n")
        files = file_digests(case.parent)
        self.event("evaluator", "case_opened", folder=case.parent.name, code_hash="0" * 64, withdrawn=[], files=files)
        for name in ("result.msgpack", "train/log.txt"):
            path = self.paths.leases / "r000001-1" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("step 1, loss 0.3\n")

    def turn(self, researcher: str, number: int) -> None:
        """A whole turn with a call, and a file in the workspace."""
        transcript = self.transcripts[researcher]
        turn = transcript.observe(number, TurnInput(), 3000)
        turn = transcript.decide(turn, Decision((ToolCall("bash", {"command": "ls"}, "to see"),)), 5000)
        transcript.store_result(turn.number, 0, ToolResult(True, {"output": "method.py"}), 0, last=True)
        transcript.finish(turn.number, 0)
        path = self.paths.workspace(researcher) / "notes" / f"{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a note\n")

    def finish(self) -> None:
        """What the driver does at the end: stores are left, everything is derived, the run is closed."""
        self.close()
        write_all(self.paths.root)
        close_run(self.paths)

    def phase(self, name: str) -> None:
        self.event("director", "phase", phase=name)

    def close(self) -> None:
        for store in self.stores.values():
            store.close()
        self._stack.close()


def _standing(word: str, accuracy: float, versus: str) -> dict[str, Any]:
    if word in ("baseline", "reference"):
        return {"word": word, "versus": None, "p": None, "diff": None, "interval": None}
    beats = word.startswith("beats")
    diff = max(accuracy - 0.7432, 0.02) if beats else accuracy - 0.7432
    shown = word.replace("vanilla", versus)
    return {"word": shown, "versus": versus, "p": 0.0004, "diff": diff, "interval": [diff - 0.01, diff + 0.01]}


def _private(path: Path) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _config(researchers: int) -> CampaignConfig:
    config = load_config("quickstart", overrides=("task.domains=[chat]",))
    team = config.researchers.model_copy(update={"directions": config.researchers.directions[:researchers]})
    return config.model_copy(update={"researchers": team})


def campaign(root: Path, researchers: int = 3, rounds: int = 2) -> Synthetic:
    """A whole campaign with every kind of event, still open (not closed)."""
    random.seed(7)
    run = Synthetic(root, researchers)
    run.event("director", "campaign_started", **pinned(run.paths, run.config))
    run.phase("prepare")
    run.open_accounts()
    _prepare(run)
    run.anchor()
    run.phase("research")
    _research(run, rounds)
    run.anchor()
    run.phase("seal")
    _seal(run)
    run.anchor()
    run.phase("report")
    run.event("director", "campaign_ended", wall_us=int(run.second * 1e6))
    run.anchor()
    run.phase("done")
    return run


def _prepare(run: Synthetic) -> None:
    shared = run.lease("campaign/baselines", "baseline", 1.0, 0.5, 14, label="pretrain/chat/strong")
    run.lease("campaign/baselines", "baseline", 1.0, 1.0, 9, "slot-1", label="pretrain/chat/weak")
    run.record("weak", "board", 0.0, shared, status="reference")
    run.record("ceiling", "board", 1.0, shared, status="reference")
    for n, (name, pgr) in enumerate((("vanilla", 0.22), ("confident", 0.31))):
        lease = run.lease("campaign/baselines", "baseline", 1.0, 15 + 8 * n, 7, f"slot-{n}", label=f"board/chat/{name}")
        run.record(name, "board", pgr, lease, status="baseline")
    run.publish()
    baseline = run.records.all()[-1]
    run.board._climb(Ladder(baseline.accuracy, baseline.code_hash, 0.01), "")


def _research(run: Synthetic, rounds: int) -> None:
    team, clock = run.config.researcher_ids(), 32.0
    for turn in range(rounds):
        for n, name in enumerate(team):
            account, slot = f"campaign/researcher/{name}", f"slot-{n % 2}"
            begin = clock + 0.1
            run.lease(f"{account}/gpu", "pilot", 0.5, begin, 3, slot, label=f"pilot of {name}")
            run.post(name, kind="claim", title=f"idea {turn} of {name}")
            source = METHODS[(n + turn) % len(METHODS)] + f"TRY = {turn}, {name!r}\n"
            sha = run.code.push(f"k{turn}", name, {"method.py": source}, None, "a try")
            method = f"{name[3:]}-{turn}"
            code = run.hash_of(sha)
            submitted = run.submissions.begin(f"s{turn}/{name}", "board", "chat", Method(sha, code, method), name, 99)
            status = "expired" if (turn, n) == (0, 1) else "done"
            lease = run.lease(f"{account}/evaluations", "full", 1.0, begin + 3, 5, slot, status, f"board/chat/{method}")
            run.ledger.spend(f"answer/{turn}/{name}", f"{account}/evaluations", Amounts(answers=1))
            run.ledger.spend(f"wall/{turn}/{name}", account, Amounts(wall_ms=8000))
            pgr = min(0.8, 0.1 + 0.09 * n + 0.25 * turn - (0.3 if status == "expired" else 0))
            fields = {"researcher": name, "snapshot": sha, "status": "tied"}
            run.record(method, "dev", round(pgr + 0.05, 2), lease, **fields)
            record = run.record(method, "board", pgr, lease, **fields)
            run.post(name, kind="result", title=f"{method} <b>scored</b>", body="it works", record_ids=[record])
            run.submissions.answer(submitted, {"new_best": False}, record)
            run.turn(name, turn)
            clock += 4.5
    run.post(team[0], title="labels at the margin hurt", body="dropping the least confident tenth helped twice")


def _seal(run: Synthetic) -> None:
    best = [record for record in run.records.all() if record.tier == "board" and record.researcher != "campaign"]
    best.sort(key=lambda record: -(record.pgr or 0.0))
    begin = run.second + 1
    refs = [("weak", 0.0, "reference"), ("ceiling", 1.0, "reference"), ("vanilla", 0.24, "baseline")]
    for n, (name, pgr, status) in enumerate([*refs, ("confident", 0.29, "baseline")]):
        lease = run.lease("campaign/seal", "full", 1.0, begin + 6 * (n // 2), 5, f"slot-{n % 2}", label=f"seal/{name}")
        run.record(name, "seal", pgr, lease, status=status)
    codes = [record.code_hash for record in best[:2]]
    finalists = [{"code_hash": code, "researcher": r.researcher} for code, r in zip(codes, best, strict=False)]
    tests = [[code, name, domain] for code in codes for name in ("vanilla", "confident") for domain in ("chat", "math")]
    run.event("evaluator", "finalists_frozen", finalists=finalists, comparisons=tests, audited=codes, dropped=[])
    sealed = []
    for n, record in enumerate(best[:2]):
        lease = run.lease("campaign/seal", "full", 1.0, begin + 12, 8, f"slot-{n}", label=f"seal/{record.method}")
        status = ["beats vanilla on chat", "ahead (not established)"][n]
        pgr = (record.pgr or 0.0) - 0.03
        fields = {"researcher": record.researcher, "snapshot": record.snapshot}
        sealed.append(run.record(record.method, "seal", pgr, lease, status=status, **fields))
        sealed.append(run.record(record.method, "seal", pgr - 0.2, lease, status="tied", domain="math", **fields))
    run.event("evaluator", "sealed", records=sealed, task={})
    run.event("evaluator", "secret_revealed", secret_commitment=run.secret.commitment())
    write_revealed(run.paths.revealed, run.secret)
