"""The Ray shell of the director."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.director.director import Director, Services
from actors.director.roster import enrol
from actors.evaluator.client import EvaluatorClient
from actors.gateway.client import GatewayClient
from actors.researcher.client import ResearcherClient
from actors.scheduler.client import SchedulerClient
from cluster.config import validate
from cluster.metrics import Metrics
from cluster.names import RunPaths
from cluster.observing import Guarded
from cluster.store import Store
from forum_actor.client import ForumClient


@ray.remote(max_restarts=-1, max_task_retries=-1)
class DirectorActor:
    """One campaign's director. `run` is called once by the driver and again by Ray after a restart."""

    def __init__(self, run_dir: str, config: dict[str, Any], slots: list[str]) -> None:
        paths, campaign = RunPaths(Path(run_dir)), validate(config)
        name = paths.root.name
        self._name, self._slots = name, slots
        self._scheduler = SchedulerClient.of(name)
        services = Services(
            scheduler=self._scheduler,
            evaluator=EvaluatorClient.of(name, patience_s=600),
            researchers={r: ResearcherClient.of(name, r) for r in campaign.researcher_ids()},
            gateway=GatewayClient.of(name) if campaign.brain.calls_model else None,
            forum=ForumClient.of(name) if campaign.forum.enabled else None,
        )
        self._director = Director(paths, Store(paths.director_db), campaign, services)
        self._metrics = Guarded(Metrics(name), self._director.guard)
        self._registered = False

    def __repr__(self) -> str:
        return f"Director({self._name})"

    async def run(self) -> dict[str, Any]:
        """Register the slots that there are now, retire those of an earlier start, carry the campaign to its end."""
        await enrol(self._scheduler, self._slots)
        self._registered = True
        return await self._director.run()

    async def status(self) -> dict[str, Any]:
        """Everything that a live page shows."""
        status = await self._director.status()
        totals = status["scheduler"].get("totals", {})
        self._metrics.set("usd_spent", float(totals.get("usd", 0)) / 1e6, account="campaign")
        self._metrics.set("gpu_seconds", float(totals.get("gpu_ms", 0)) / 1e3, account="campaign")
        return {**status, "registered": self._registered}
