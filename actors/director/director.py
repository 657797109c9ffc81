"""The director's plain class: the phase machine of a campaign.

Promises: the phase is on disk before its work begins; every phase is idempotent, so that a director that died anywhere
is run again and ends in the same place. At the end of each phase, and every minute of research, the heads of all other
journals are anchored in the director's own, so that a journal whose tail is cut later no longer fits; as often it is
looked at whether the team's ideas have collapsed. What SEAL may cost is set aside before anything is spent. Research
lasts as long as the configuration says, not counting time in which the campaign was down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol

from actors.director.begun import pinned
from actors.director.ideas import ForumApi, IdeaWatch
from actors.director.namer import Namer
from actors.director.phases import Phase
from actors.director.stopwatch import Stopwatch
from actors.evaluator.estimate import sealing
from actors.gateway.api import ModelApi
from cluster.clock import now_us
from cluster.config import CampaignConfig
from cluster.errors import AarError
from cluster.journal import Journal, verify_chain
from cluster.money import Caps, usd_from_decimal
from cluster.names import BASELINES_ACCOUNT, CAMPAIGN, IDEAS_ACCOUNT, PARTS, SEAL_ACCOUNT, RunPaths, researcher_account
from cluster.store import Store, open_readonly
from gpu_pool.weak_to_strong.methods import BASELINES

log = logging.getLogger(__name__)
POLL_S = 0.5
ANCHOR_S = 60.0
SEAL_HOLD = "seal"
STOP_GRACE_S = 180.0
"""A researcher that was told to stop may finish the call it is in: at most one counted run."""

_DDL = "CREATE TABLE IF NOT EXISTS director (key TEXT PRIMARY KEY, value TEXT NOT NULL);"


class ResearcherApi(Protocol):
    """What the director asks of a researcher."""

    async def run(self) -> dict[str, Any]:
        """Work until the end of budget, turns or orders."""

    async def stop(self) -> None:
        """End gracefully after the current call."""

    async def status(self) -> dict[str, Any]:
        """State, turn, spend."""

    async def redirect(self, direction: str) -> None:
        """Go on from this direction."""


class SchedulerApi(Protocol):
    """What the director asks of the scheduler."""

    async def open_account(self, key: str, account: str, parent: str | None, caps: dict[str, Any]) -> Any:
        """Open an account once."""

    async def reserve(self, key: str, account: str, amounts: dict[str, int], note: str) -> Any:
        """Set an amount aside. Raises `RefusedError`."""

    async def release(self, key: str, note: str) -> Any:
        """Free what was set aside."""

    async def status(self) -> dict[str, Any]:
        """Queue, leases, accounts."""


class EvaluatorApi(Protocol):
    """What the director asks of the evaluator."""

    async def prepare(self) -> Any:
        """Make the task and its baselines."""

    async def seal(self) -> Any:
        """Score finalists and baselines on sealed items, once."""

    async def status(self) -> dict[str, Any]:
        """Progress and board."""


class GatewayApi(ModelApi, Protocol):
    """What the director asks of the gateway."""

    async def close(self) -> None:
        """Take no more calls; end the model's server, if the campaign started one."""

    async def status(self) -> dict[str, Any]:
        """Calls, cache, server."""


@dataclass(frozen=True, slots=True)
class Offices:
    """The offices of a campaign; a gateway when the brains call a model, a forum when they may talk."""

    scheduler: SchedulerApi
    evaluator: EvaluatorApi
    researchers: dict[str, ResearcherApi]
    gateway: GatewayApi | None = None
    forum: ForumApi | None = None


class Director:
    """Moves a campaign through its phases."""

    def __init__(self, paths: RunPaths, store: Store, config: CampaignConfig, offices: Offices) -> None:
        self._paths, self._store, self._config, self._offices = paths, store, config, offices
        self._journal = Journal(store)
        store.schema(_DDL)
        model, gateway = config.diversity.model, offices.gateway
        namer = None if model is None or gateway is None else Namer(model, gateway)
        self._ideas = IdeaWatch(paths, store, config, offices.forum, offices.researchers, namer)
        self._looking: asyncio.Task[None] | None = None
        self._last_anchor = 0.0
        self._anchored: dict[str, dict[str, Any]] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._watch: Stopwatch | None = None

    def _get(self, key: str) -> str | None:
        rows = self._store.query("SELECT value FROM director WHERE key = ?", (key,))
        return str(rows[0]["value"]) if rows else None

    def _set(self, key: str, value: str) -> None:
        with self._store.transaction() as db:
            db.execute("INSERT OR REPLACE INTO director VALUES (?, ?)", (key, value))

    @property
    def phase(self) -> Phase:
        """The phase the campaign is in, as it stands on disk."""
        return Phase.of(self._get("phase") or Phase.PREPARE.label)

    def _enter(self, phase: Phase) -> None:
        with self._store.transaction():
            self._set("phase", phase.label)
            self._journal.append("phase", {"phase": phase.label})

    async def run(self) -> dict[str, Any]:
        """Carry the campaign from where it stands to its end."""
        if self._get("started_us") is None:
            with self._store.transaction():
                self._set("started_us", str(now_us()))
                self._set("phase", Phase.PREPARE.label)
                self._journal.append("campaign_started", pinned(self._paths, self._config))
                self._journal.append("phase", {"phase": Phase.PREPARE.label})
        else:
            self._journal.append("resumed", {"phase": self.phase.label})
        work = {
            Phase.PREPARE: self._prepare,
            Phase.RESEARCH: self._research,
            Phase.SEAL: self._seal,
            Phase.REPORT: self._report,
        }
        while (phase := self.phase) is not Phase.DONE:
            await work[phase]()
            self.anchor()
            self._enter(phase.next)
        return {"phase": Phase.DONE.label}

    async def _prepare(self) -> None:
        opened = self._offices.scheduler.open_account
        await opened(f"open/{CAMPAIGN}", CAMPAIGN, None, self._config.budget.campaign.caps().to_dict())
        no_caps = Caps().to_dict()
        for office in (BASELINES_ACCOUNT, SEAL_ACCOUNT):
            await opened(f"open/{office}", office, CAMPAIGN, no_caps)
        if self._config.diversity.model is not None:
            most = Caps(usd=usd_from_decimal(self._config.diversity.usd)).to_dict()
            await opened(f"open/{IDEAS_ACCOUNT}", IDEAS_ACCOUNT, CAMPAIGN, most)
        caps = self._config.budget.researcher.caps().to_dict()
        for researcher in self._config.researcher_ids():
            account = researcher_account(researcher)
            await opened(f"open/{account}", account, CAMPAIGN, caps)
            for part in PARTS:
                own = researcher_account(researcher, part)
                await opened(f"open/{own}", own, account, no_caps)
        worst = sealing(self._config, len(BASELINES)).to_dict()
        await self._offices.scheduler.reserve(SEAL_HOLD, SEAL_ACCOUNT, worst, "set aside for SEAL")
        await self._offices.evaluator.prepare()

    async def _research(self) -> None:
        if self._get("research_started_us") is None:
            self._set("research_started_us", str(now_us()))
        started = int(self._get("research_started_us") or 0)
        watch = self._watch = Stopwatch(self._store, Phase.RESEARCH.label)
        runs = {name: asyncio.ensure_future(actor.run()) for name, actor in self._offices.researchers.items()}
        pending = set(runs.values())
        while pending and self._research_left_s() > 0 and not await self._plateau(started):
            _, pending = await asyncio.wait(pending, timeout=POLL_S)
            watch.save()
            if time.monotonic() - self._last_anchor > ANCHOR_S:
                self._look_at_ideas([name for name, run in runs.items() if not run.done()])
                self.anchor()
        watch.save(now=True)
        if self._looking is not None:
            self._looking.cancel()
        if pending:
            await asyncio.gather(*(actor.stop() for actor in self._offices.researchers.values()))
            _, pending = await asyncio.wait(pending, timeout=STOP_GRACE_S)
        for name, run in runs.items():
            self._note_end(name, run)
        for run in pending:
            run.cancel()

    def _look_at_ideas(self, working: list[str]) -> None:
        """Beside everything else: a model that names families may take its time."""
        if self._looking is not None:
            if not self._looking.done():
                return
            if self._looking.exception() is not None:
                log.error("the watch over ideas failed", exc_info=self._looking.exception())
        self._looking = asyncio.create_task(self._ideas.look(working))

    def _research_left_s(self) -> float:
        worked = 0.0 if self._watch is None else self._watch.seconds
        return max(0.0, self._config.research.minutes * 60 - worked)

    def _note_end(self, name: str, run: asyncio.Future[dict[str, Any]]) -> None:
        if not run.done():
            payload = {"researcher": name, "ended": "did not stop in time"}
        elif run.exception() is not None:
            payload = {"researcher": name, "ended": "failed", "error": str(run.exception())[:1000]}
        else:
            payload = {"researcher": name, **run.result()}
        self._journal.append("researcher_ended", payload)

    async def _plateau(self, started: int) -> bool:
        limit = self._config.research.plateau_minutes
        if limit is None:
            return False
        status = await self._offices.evaluator.status()
        moved = max(int(status.get("board_moved_us") or 0), started)
        return now_us() - moved > limit * 60e6

    async def _seal(self) -> None:
        await self._close_gateway()
        await self._offices.scheduler.release(SEAL_HOLD, "SEAL begins")
        await self._offices.evaluator.seal()

    async def _close_gateway(self) -> None:
        """Nobody calls a model any more: its server must not keep the slot that sealing needs."""
        if self._offices.gateway is None:
            return
        try:
            await self._offices.gateway.close()
        except AarError as error:  # sealing needs no model
            log.warning("the gateway was not closed before SEAL: %s", error)

    async def _report(self) -> None:
        with self._store.transaction():
            self._set("ended_us", str(now_us()))
            self._journal.append("campaign_ended", {"wall_us": now_us() - int(self._get("started_us") or 0)})

    def anchor(self) -> None:
        """Write the heads of all other journals into this one."""
        heads: dict[str, dict[str, Any]] = {}
        for name, path in self._paths.databases().items():
            if name == "director":
                continue
            db = open_readonly(path)
            try:
                report = verify_chain(db)
            finally:
                db.close()
            heads[name] = {"seq": report.events, "hash": report.head}
            if report.broken is not None:
                raise AarError(f"journal of {name} is broken at event {report.broken.seq}: {report.broken.reason}")
        self._last_anchor = time.monotonic()
        if heads != self._anchored:
            self._journal.append("anchor", heads)
            self._anchored = heads

    async def status(self) -> dict[str, Any]:
        """Everything that a live page shows."""
        started = int(self._get("started_us") or now_us())
        others: dict[str, Any] = dict(self._offices.researchers)
        if self._offices.gateway is not None:
            others["gateway"] = self._offices.gateway
        scheduler, evaluator, *states = await asyncio.gather(
            self._offices.scheduler.status(),
            self._offices.evaluator.status(),
            *(self._one_status(name, other) for name, other in others.items()),
        )
        known = dict(zip(others, states, strict=True))
        return {
            "phase": self.phase.label,
            "alarm": self._ideas.alarm,
            "wall_seconds": (int(self._get("ended_us") or now_us()) - started) / 1e6,
            "research_left_s": self._research_left_s() if self._watch is not None else None,
            "scheduler": scheduler,
            "evaluator": evaluator,
            "gateway": known.pop("gateway", None),
            "researchers": known,
        }

    async def _one_status(self, name: str, other: ResearcherApi | GatewayApi) -> dict[str, Any]:
        """The status of a researcher or the gateway, or its last known one when it is busy restarting."""
        try:
            self._states[name] = await asyncio.wait_for(other.status(), 3.0)
        except (TimeoutError, AarError):
            return {**self._states.get(name, {}), "state": "unreachable"}
        return self._states[name]
