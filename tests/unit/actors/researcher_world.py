"""Offices of a campaign without Ray: they outlive a researcher's crashes, and can be cut off at any point."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from actors.evaluator.client import EvaluatorClient
from actors.gateway.client import GatewayClient
from actors.researcher.account import Account
from actors.researcher.brains.base import Brain, BrainContext, make_brain
from actors.researcher.loop import Profile, Researcher
from actors.researcher.runs import Runs
from actors.researcher.tools import Context, Notifier, make_toolbox
from actors.researcher.transcript import Transcript
from actors.researcher.workspace import Workspace
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig, load_config
from cluster.errors import Reason, RefusedError
from cluster.journal import Journal
from cluster.money import DIMENSIONS, Amounts, Balance, Caps
from cluster.remote import Local
from cluster.store import Store
from forum_actor.client import ForumClient
from gpu_pool.leases import LeaseRequest, LeaseResult, StepResult
from gpu_pool.weak_to_strong.items import Item, ItemSet

ITEMS = 240
SANDBOX_UID = 65432


class Crash(BaseException):
    """The process died here."""


@dataclass
class Fuse:
    """Counts points at which a process may die, and dies at number `at`."""

    at: int | None = None
    count: int = 0

    def point(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Crash


class FusedStore(Store):
    """A store that may die before and after each outermost transaction."""

    def __init__(self, path: Path, fuse: Fuse) -> None:
        self._fuse = fuse
        self._level = 0
        super().__init__(path)
        self._db.execute("PRAGMA synchronous=OFF")  # a test survives no power loss

    def _be_lazy(self, lazy: bool) -> None:
        self._lazy = lazy

    @contextmanager
    def transaction(self, *, lazy: bool = False) -> Iterator[sqlite3.Connection]:
        outer = self._level == 0
        if outer:
            self._fuse.point()
        self._level += 1
        try:
            with super().transaction(lazy=lazy) as db:
                yield db
        finally:
            self._level -= 1
        if outer:
            self._fuse.point()


@dataclass
class Offices:
    """Scheduler, forum and evaluator in one, each mutating call kept by key; `effects` counts what really happened."""

    folder: Path
    caps: dict[str, int | None]
    fuse: Fuse = field(default_factory=Fuse)
    answers: dict[str, Any] = field(default_factory=dict)
    effects: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    """How often the offices were asked for what changes nothing."""
    spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DIMENSIONS, 0))
    posts: list[dict[str, Any]] = field(default_factory=list)
    trees: dict[str, dict[str, str]] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    pgr_of: Any = None
    pilot_status: str = "ok"
    forum_enabled: bool = True

    def _once(self, office: str, key: str, act: Any) -> Any:
        """What an office does: die before, act once per key, die after."""
        self.fuse.point()
        self.calls.append((office, key))
        name = f"{office}:{key}"
        if name not in self.answers:
            self.answers[name] = act()
            self.effects.append(name)
        self.fuse.point()
        return self.answers[name]

    @property
    def _acts(self) -> int:
        """Effects but charges of wall time, which may come sooner or later."""
        return sum("/wall" not in name for name in self.effects)

    def _charge(self, account: str, **amounts: int) -> None:
        for dimension, amount in amounts.items():
            cap = self.caps.get(dimension)
            if cap is not None and self.spent[dimension] + amount > cap:
                detail = {"dimension": dimension, "account": account, "cap": cap, "asked": amount}
                raise RefusedError(Reason.OVER_BUDGET, f"no {dimension} left", detail)
        for dimension, amount in amounts.items():
            self.spent[dimension] += amount

    # scheduler

    async def open_account(self, key: str, account: str, parent: str | None, caps: Caps) -> Balance:
        self._once("open", key, lambda: True)
        return self._balance(account)

    async def balance(self, account: str) -> Balance:
        self.fuse.point()
        self.asked["balance"] += 1
        return self._balance(account)

    def _balance(self, account: str) -> Balance:
        caps = Caps(**self.caps) if account != "campaign" else Caps()
        left = {d: None if cap is None else cap - self.spent[d] for d, cap in caps.to_dict().items()}
        gone = tuple(d for d, most in left.items() if most == 0)
        return Balance(account, None, caps, Amounts(**self.spent), Amounts(), Caps(**left), gone)

    async def charge(self, key: str, account: str, amounts: Amounts, note: str) -> Amounts:
        def act() -> Amounts:
            room = {d: None if (cap := self.caps.get(d)) is None else cap - self.spent[d] for d in DIMENSIONS}
            asked = amounts.to_dict()
            charged = {d: most if (most := room[d]) is not None and most < asked[d] else asked[d] for d in asked}
            self._charge(account, **charged)
            return Amounts(**charged)

        charged: Amounts = self._once("spend", key, act)
        return charged

    async def run(self, request: LeaseRequest) -> LeaseResult:
        worst = round(request.gpus * request.seconds * 1000)

        def act() -> LeaseResult:
            self._charge(request.account, gpu_ms=worst, usd=worst)
            self.spent["gpu_ms"] -= worst - worst // 10
            self.spent["usd"] -= worst - worst // 10
            return self._lease(request, worst // 10)

        result: LeaseResult = self._once("run", request.key, act)
        return result

    async def cancel(self, key: str) -> None:
        self._once("cancel", key, lambda: True)

    def _lease(self, asked: LeaseRequest, gpu_ms: int) -> LeaseResult:
        held = ItemSet.load(Path(asked.job.steps[1].inputs["items.arrow"]))
        rng = np.random.default_rng(self._acts)
        probs = rng.random((len(held), 1)).astype(np.float32)
        out = self.folder / f"probs-{len(self.effects)}.safetensors"
        save_file({"probs": np.concatenate([1 - probs, probs], axis=1)}, out)
        ok = self.pilot_status == "ok"
        steps = [StepResult("pilot-train", self.pilot_status, "" if ok else "ValueError: no", 1.0, 1.0, {}, "")]  # type: ignore[arg-type]
        if ok:
            steps.append(StepResult("pilot-predict", "ok", "", 0.1, 1.0, {"probs.safetensors": str(out)}, ""))
        else:
            steps.append(StepResult("pilot-predict", "skipped", "", 0.0, None, {}, ""))
        return LeaseResult("l1", "done", tuple(steps), gpu_ms, 0, 1_200_000, "s", "n", "cpu", "A", "p")

    # forum

    async def post(self, key: str, author: str, draft: dict[str, Any]) -> dict[str, Any]:
        if not self.forum_enabled:
            raise RefusedError(Reason.FORUM_DISABLED, "no forum")

        def act() -> dict[str, Any]:
            if draft["kind"] == "claim":
                if self.held.get(draft["idea"], author) != author:
                    raise RefusedError(Reason.CLAIMED, "held by another")
                self.held[draft["idea"]] = author
            return self.add_post(author, **draft)

        result: dict[str, Any] = self._once("post", key, act)
        return result

    def add_post(self, author: str, **draft: Any) -> dict[str, Any]:
        seq = len(self.posts) + 1
        post = {"record_ids": [], "snapshot": None, "idea": "", "records": [], **draft}
        post |= {"id": f"p-{seq}", "seq": seq, "author": author}
        self.posts.append(post)
        return post

    async def read(self, reader: str, post_id: str) -> dict[str, Any]:
        return next(post for post in self.posts if post["id"] == post_id)

    async def unread(self, reader: str, after_seq: int, limit: int) -> list[dict[str, Any]]:
        self.fuse.point()
        self.asked["unread"] += 1
        return [post for post in self.posts if post["author"] != reader and post["seq"] > after_seq][:limit]

    async def news(self, reader: str, after_seq: int, wait_s: float) -> int:
        while (latest := max((p["seq"] for p in self.posts if p["author"] != reader), default=0)) == after_seq:
            await asyncio.sleep(0.01)
        return latest

    async def search(self, query: str, limit: int) -> list[dict[str, Any]]:
        return [post for post in self.posts if query in post["title"]][:limit]

    async def claims(self) -> list[dict[str, Any]]:
        return [post for post in self.posts if post["kind"] == "claim"]

    async def push_code(self, key: str, author: str, files: dict[str, str], parent: str | None, note: str) -> str:
        def act() -> str:
            sha = f"{abs(hash(tuple(sorted(files.items())))):064x}"[-64:]
            self.trees[sha] = files
            return sha

        return str(self._once("push", key, act))

    async def fetch_code(self, reader: str, sha: str) -> dict[str, str]:
        if sha not in self.trees:
            raise RefusedError(Reason.UNKNOWN_SNAPSHOT, "no such snapshot")
        return self.trees[sha]

    async def lineage(self, sha: str) -> list[dict[str, Any]]:
        return [{"snapshot": sha}]

    async def diff(self, reader: str, sha_a: str, sha_b: str) -> str:
        return ""

    async def sync(self, reader: str, directory: str) -> dict[str, Any]:
        self.fuse.point()
        return {}

    # evaluator

    async def submit(self, key: str, researcher: str, snapshot: str, name: str, tier: str) -> dict[str, Any]:
        def act() -> dict[str, Any]:
            self._charge(f"campaign/researcher/{researcher}", answers=1, gpu_ms=2000, usd=2000)
            record = f"r-{self._acts}"
            pgr = 0.4 if self.pgr_of is None else float(self.pgr_of(self.trees[snapshot]["method.py"]))
            if tier == "board":
                best = pgr > max((row["pgr"] for row in self.rows), default=-1.0)
                if best:
                    self.rows.append({"method": name, "researcher": researcher, "pgr": pgr, "record_id": record})
                level = 0.6 + pgr / 4 if best else None
                pgr_shown = pgr if best else None
                return {"tier": "board", "new_best": best, "level": level, "pgr": pgr_shown, "record_id": record}
            dev = {
                "accuracy": 0.6 + pgr / 4,
                "pgr": pgr,
                "vanilla_pgr": 0.25,
                "seeds": 3,
                "failed_seeds": 0,
                "error": "",
            }
            return {"tier": "dev", "name": name, "record_id": record, "wear": 0.1, **dev}

        result: dict[str, Any] = self._once("submit", key, act)
        return result

    async def leaderboard(self) -> list[dict[str, Any]]:
        return list(self.rows)


def make_public(folder: Path) -> dict[str, Any]:
    """Public task files of a made-up domain; the content of its task.json."""
    folder.mkdir(parents=True, exist_ok=True)
    items = ItemSet.of([Item(f"i{n}", "pair", f"p{n}", "a", "b") for n in range(ITEMS)])
    items.save(folder / "items.arrow")
    rng = np.random.default_rng(0)
    probs = rng.random(ITEMS).astype(np.float32)
    save_file({"probs": np.stack([1 - probs, probs], axis=1)}, folder / "weak.safetensors")
    save_file({"hidden": rng.random((ITEMS, 2, 3)).astype(np.float32)}, folder / "features.safetensors")
    save_file({"prior": rng.random(ITEMS).astype(np.float32)}, folder / "prior.safetensors")
    task = {
        "domain": "chat",
        "kind": "pair",
        "n_items": ITEMS,
        "description": "A made-up task.",
        "strong_model": str(folder / "strong"),
        "disguised": True,
        "protocol": {"epochs": 5},
    }
    (folder / "task.json").write_text(json.dumps(task))
    return task


CAPS: dict[str, int | None] = {"usd": None, "gpu_ms": 200_000, "wall_ms": None, "answers": 4}
NINE = load_config(preset="quickstart")


def config(**changes: Any) -> CampaignConfig:
    """The quickstart with changed sections, given as dictionaries."""
    data = NINE.model_dump()
    for name, change in changes.items():
        data[name] = {**data[name], **change} if isinstance(change, dict) else change
    return CampaignConfig.model_validate(data)


class World:
    """One researcher among fake offices; `start` makes a fresh process of it."""

    def __init__(
        self,
        tmp: Path,
        settings: CampaignConfig | None = None,
        brain: Brain | None = None,
        researcher: str = "01-elicitation",
        caps: dict[str, int | None] | None = None,
        offices: Offices | None = None,
        max_turns: int | None = None,
        model: Any = None,
    ) -> None:
        self.tmp = tmp
        self.config = settings or NINE
        self.researcher = researcher
        self._brain = brain
        self._max_turns = max_turns
        self.model = model
        self.task = make_public(tmp / "public")
        self.offices = offices or Offices(tmp, caps or dict(CAPS))
        self.store: Store | None = None

    def start(self, fuse: Fuse | None = None) -> Researcher:
        """A fresh process: everything in memory is new."""
        fuse = fuse or Fuse()
        self.offices.fuse = Fuse()
        self.close()
        self.store = FusedStore(self.tmp / self.researcher / "researcher.db", Fuse())
        self.runs = Runs(self.store)
        self.transcript = Transcript(self.store, Journal(self.store), self.runs, self.researcher)
        self.store._fuse = fuse  # the constructor's own writes are idempotent DDL
        self.offices.fuse = fuse
        home = self.tmp / self.researcher
        scheduler, forum = SchedulerClient(Local(self.offices)), ForumClient(Local(self.offices))
        budget = self.config.budget
        self.account = Account(scheduler, self.researcher, budget.researcher.caps(), budget.campaign.caps())
        self.ctx = Context(
            researcher=self.researcher,
            account=self.account.name,
            config=self.config,
            workspace=Workspace(home / "workspace", home / "private", SANDBOX_UID),
            sandbox_uid=SANDBOX_UID,
            public=str(self.tmp / "public"),
            task=self.task,
            scheduler=scheduler,
            forum=forum,
            evaluator=EvaluatorClient(Local(self.offices)),
            runs=self.runs,
            notifier=Notifier(forum, self.researcher),
        )
        toolbox = make_toolbox(self.ctx)
        direction = self.config.direction_of(self.researcher).text
        notebook = self.ctx.workspace.notebook
        model = GatewayClient(Local(self.model))
        made_of = BrainContext(self.config, self.researcher, direction, self.task, toolbox.describe(), model, notebook)
        brain = self._brain or make_brain(made_of)
        profile = Profile(
            researcher=self.researcher,
            direction=direction,
            task=self.task,
            max_turns=self._max_turns or self.config.researchers.max_turns,
            seconds=None,
            forum=self.config.forum.enabled,
            workspace=str(self.ctx.workspace.root),
            watched=self.config.brain.calls_model,
        )
        return Researcher(profile, brain, toolbox, self.transcript, self.account)

    def close(self) -> None:
        """The process is gone."""
        if self.store is not None:
            self.store.close()
            self.store = None

    def run(self) -> dict[str, Any]:
        """A whole life without a crash."""
        return asyncio.run(self.start().run())


async def watched(researcher: Researcher) -> tuple[dict[str, Any], set[tuple[str, str]]]:
    """Run a researcher; its summary, and every state with its last action that somebody could see meanwhile."""
    states: set[tuple[str, str]] = set()
    running = asyncio.create_task(researcher.run())
    while not running.done():
        states.add((researcher.state, researcher.status()["last_action"]))
        await asyncio.sleep(0)
    return await running, states
