"""The director's plain class: the phase machine of a campaign.

Promises: the phase is on disk before its work begins; every phase is idempotent, so that a director that died anywhere
is run again and ends in the same place. At the end of each phase, and every minute of research, the heads of all other
journals are anchored in the director's own, so that a journal whose tail is cut later no longer fits; as often it is
looked at whether the team's ideas have collapsed. What SEAL may cost is set aside before anything is spent. Research
lasts as long as the configuration says, and a plateau likewise, not counting time in which the campaign was down or
paused for want of room (see `room`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from actors.director.begun import pinned
from actors.director.ideas import IdeaWatch
from actors.director.namer import Namer
from actors.director.phases import Phase
from actors.director.room import PausableApi, RoomGuard
from actors.director.stopwatch import Stopwatch
from actors.evaluator.client import EvaluatorClient
from actors.evaluator.estimate import sealing
from actors.gateway.client import GatewayClient
from actors.researcher.client import ResearcherClient
from actors.scheduler.client import SchedulerClient
from cluster.clock import StopWatchClock
from cluster.config import CampaignConfig
from cluster.errors import AarError
from cluster.journal import Journal, verify_chain
from cluster.money import Caps, usd_from_decimal
from cluster.names import BASELINES_ACCOUNT, CAMPAIGN, IDEAS_ACCOUNT, PARTS, SEAL_ACCOUNT, RunPaths, researcher_account
from cluster.observing import Guard
from cluster.steady import SteadyClock
from cluster.storage import storage_fault
from cluster.store import Store, open_readonly
from forum_actor.client import ForumClient
from gpu_pool.weak_to_strong.methods import BASELINES

log = logging.getLogger(__name__)
POLL_S = 0.5
ANCHOR_S = 60.0
SEAL_HOLD = "seal"
STATUS_S, OFFICE_STATUS_S = 3.0, 8.0
"""After that the last known status of a researcher, or of an office, is shown."""
STOP_GRACE_S = 180.0
"""A researcher that was told to stop may finish the call it is in: at most one counted run."""

_DDL = "CREATE TABLE IF NOT EXISTS director (key TEXT PRIMARY KEY, value TEXT NOT NULL);"


class Observed(Protocol):
    """Whoever tells its status."""

    async def status(self) -> dict[str, Any]:
        """Plain data for people."""


@dataclass(frozen=True, slots=True)
class Services:
    """The services of a campaign; a gateway when the brains call a model, a forum when they may talk."""

    scheduler: SchedulerClient
    evaluator: EvaluatorClient
    researchers: dict[str, ResearcherClient]
    gateway: GatewayClient | None = None
    forum: ForumClient | None = None


class Director:
    """Moves a campaign through its phases."""

    def __init__(self, paths: RunPaths, store: Store, config: CampaignConfig, services: Services) -> None:
        self._paths, self._store, self._config, self._services = paths, store, config, services
        self._journal = Journal(store)
        store.schema(_DDL)
        self._clock = SteadyClock(store, max(int(self._get(key) or 0) for key in ("started_us", "ended_us")))
        model, gateway = config.diversity.model, services.gateway
        namer = None if model is None or gateway is None else Namer(model, gateway)
        self._ideas = IdeaWatch(paths, store, config, services.forum, services.researchers, namer)
        self._looking: asyncio.Task[None] | None = None
        self._last_anchor = 0.0
        self._anchored: dict[str, dict[str, Any]] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._watch: Stopwatch | None = None
        self.guard = Guard()
        """Counts what could not be observed."""
        self._work_clock = StopWatchClock()
        self._room = RoomGuard(paths, config, self._journal, self._pausable, services.forum, self._work_clock)

    def _pausable(self) -> dict[str, PausableApi]:
        working = self._services.researchers if self.phase is Phase.RESEARCH else {}
        return {"scheduler": self._services.scheduler, **working}

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
                self._set("started_us", str(self._clock()))
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
        guard = asyncio.create_task(self._room.watch())
        guard.add_done_callback(_note_end_of_watch)
        try:
            while (phase := self.phase) is not Phase.DONE:
                await self._with_room(work[phase], phase)
        finally:
            guard.cancel()
        return {"phase": Phase.DONE.label}

    async def _with_room(self, work: Callable[[], Awaitable[None]], phase: Phase) -> None:
        """A phase to its end; one that storage stopped is begun again when there is room, as after a crash."""
        try:
            await work()
            self.anchor()
            self._enter(phase.next)
        except (AarError, OSError, sqlite3.Error) as error:
            fault = storage_fault(error)
            if fault is None:
                raise
            log.warning("phase %s waits: %s", phase.label, fault)
            await asyncio.sleep(POLL_S)

    async def _prepare(self) -> None:
        opened = self._services.scheduler.open_account
        await opened(f"open/{CAMPAIGN}", CAMPAIGN, None, self._config.budget.campaign.caps())
        no_caps = Caps()
        for office in (BASELINES_ACCOUNT, SEAL_ACCOUNT):
            await opened(f"open/{office}", office, CAMPAIGN, no_caps)
        if self._config.diversity.model is not None:
            most = Caps(usd=usd_from_decimal(self._config.diversity.usd))
            await opened(f"open/{IDEAS_ACCOUNT}", IDEAS_ACCOUNT, CAMPAIGN, most)
        caps = self._config.budget.researcher.caps()
        for researcher in self._config.researcher_ids():
            account = researcher_account(researcher)
            await opened(f"open/{account}", account, CAMPAIGN, caps)
            for part in PARTS:
                own = researcher_account(researcher, part)
                await opened(f"open/{own}", own, account, no_caps)
        worst = sealing(self._config, len(BASELINES))
        await self._services.scheduler.reserve(SEAL_HOLD, SEAL_ACCOUNT, worst, "set aside for SEAL")
        await self._services.evaluator.prepare()

    async def _research(self) -> None:
        watch = self._watch = Stopwatch(self._store, Phase.RESEARCH.label, self._work_clock)
        runs = {name: asyncio.ensure_future(actor.run()) for name, actor in self._services.researchers.items()}
        pending = set(runs.values())
        while pending and self._research_left_s() > 0:
            _, pending = await asyncio.wait(pending, timeout=POLL_S)
            if self._room.pause is not None:
                continue
            if await self._plateau(watch):
                break
            watch.save()
            if time.monotonic() - self._last_anchor > ANCHOR_S:
                self._look_at_ideas([name for name, run in runs.items() if not run.done()])
                self.anchor()
        watch.save(now=True)
        if self._looking is not None:
            self._looking.cancel()
        if pending:
            await asyncio.gather(*(actor.stop() for actor in self._services.researchers.values()))
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
            if (error := self._looking.exception()) is not None:
                self.guard.note("ideas of the team", error)
                log.error("the watch over ideas failed", exc_info=error)
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

    async def _plateau(self, watch: Stopwatch) -> bool:
        """Whether the board has not moved for too long, counted in seconds of research."""
        limit = self._config.research.plateau_minutes
        if limit is None:
            return False
        status = await self._services.evaluator.status()
        move = str(status.get("board_moved_us") or 0)
        if self._get("board_move") != move:
            with self._store.transaction():
                self._set("board_move", move)
                self._set("board_moved_s", repr(watch.seconds))
        return watch.seconds - float(self._get("board_moved_s") or 0) > limit * 60

    async def _seal(self) -> None:
        await self._close_gateway()
        await self._services.scheduler.release(SEAL_HOLD, "SEAL begins")
        await self._services.evaluator.seal()

    async def _close_gateway(self) -> None:
        """Nobody calls a model any more: its server must not keep the slot that sealing needs."""
        if self._services.gateway is None:
            return
        try:
            await self._services.gateway.close()
        except AarError as error:  # sealing needs no model
            log.warning("the gateway was not closed before SEAL: %s", error)

    async def _report(self) -> None:
        with self._store.transaction():
            ended = self._clock()
            self._set("ended_us", str(ended))
            self._journal.append("campaign_ended", {"wall_us": ended - int(self._get("started_us") or 0)})

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
        now = self._clock()
        started = int(self._get("started_us") or now)
        services = self._services
        others: dict[str, Observed] = {"scheduler": services.scheduler, "evaluator": services.evaluator}
        if services.gateway is not None:
            others["gateway"] = services.gateway
        others |= services.researchers
        states = await asyncio.gather(
            *(
                self._one_status(name, other, STATUS_S if name in services.researchers else OFFICE_STATUS_S)
                for name, other in others.items()
            )
        )
        known = dict(zip(others, states, strict=True))
        return {
            "phase": self.phase.label,
            "alarm": self._ideas.alarm,
            "wall_seconds": (int(self._get("ended_us") or now) - started) / 1e6,
            "research_left_s": self._research_left_s() if self._watch is not None else None,
            "paused": self._room.status(),
            "scheduler": known.pop("scheduler"),
            "evaluator": known.pop("evaluator"),
            "gateway": known.pop("gateway", None),
            "researchers": known,
            "unobserved": self.guard.failed(),
        }

    async def _one_status(self, name: str, other: Observed, seconds: float) -> dict[str, Any]:
        """The status of another actor, or its last known one when it is busy, restarting or fails to tell it."""
        try:
            self._states[name] = await asyncio.wait_for(other.status(), seconds)
        except TimeoutError:
            return {**self._states.get(name, {}), "state": "unreachable"}
        except Exception as error:  # noqa: BLE001  # whatever one status fails of is counted; the others are shown
            self.guard.note(f"status of {name}", error)
            return {**self._states.get(name, {}), "state": "unreachable"}
        return self._states[name]


def _note_end_of_watch(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("nobody looks whether there is room any more", exc_info=task.exception())
