"""The evaluator's actor: a thin shell. State is in `runs/<campaign>/evaluator.db` and `judge/`; truth is in memory.

`ray.get_actor` imports this module in every process that calls the evaluator, so what only the evaluator needs (scipy,
pyarrow: seconds and 100 MB each time) is imported when the actor starts.
"""

from __future__ import annotations

import ctypes
import os
from functools import partial
from pathlib import Path
from typing import Any

import ray

from actors.scheduler.client import SchedulerClient
from cluster.config import validate
from cluster.journal import Journal
from cluster.names import RunPaths, actor_name
from cluster.store import Store

_PR_SET_DUMPABLE = 4
_PATIENCE_S = 600.0


def close_process() -> None:
    """No core dumps and no reading of this process by others of its user; new files are private."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)


@ray.remote(max_restarts=-1, max_task_retries=-1)
class EvaluatorActor:
    """The office of truth. No argument, return value or object of it is ever a label; answers are plain data."""

    def __init__(self, run_dir: str, config: dict[str, Any]) -> None:
        """`config` is the campaign's configuration as plain data."""
        from actors.evaluator.evaluator import Evaluator
        from actors.evaluator.file_domain import read_domain

        close_process()
        paths, settings = RunPaths(Path(run_dir)), validate(config)
        self._name = actor_name(paths.root.name, "evaluator")
        scheduler = SchedulerClient.of(paths.root.name, _PATIENCE_S)
        store = Store(paths.evaluator_db)
        self._evaluator = Evaluator(
            paths,
            settings,
            scheduler,
            store,
            Journal(store),
            partial(read_domain, settings.task),
        )

    def __repr__(self) -> str:
        return self._name

    async def prepare(self) -> dict[str, Any]:
        """See `Evaluator.prepare`."""
        return await self._evaluator.prepare()

    async def submit(self, key: str, researcher: str, snapshot: str, name: str, tier: str) -> dict[str, Any]:
        """See `Evaluator.submit`."""
        return await self._evaluator.submit(key, researcher, snapshot, name, tier)

    async def seal(self) -> dict[str, Any]:
        """See `Evaluator.seal`."""
        return await self._evaluator.seal()

    async def score(self, key: str, snapshot: str, name: str, tier: str, domain: str) -> dict[str, Any]:
        """See `Evaluator.score`."""
        return await self._evaluator.score(key, snapshot, name, tier, domain)

    async def replay(self, snapshot: str, name: str, tier: str, domain: str) -> dict[str, Any]:
        """See `Evaluator.replay`."""
        return await self._evaluator.replay(snapshot, name, tier, domain)

    async def audit(self, snapshot: str, name: str, domain: str) -> dict[str, Any]:
        """See `Evaluator.audit`."""
        return await self._evaluator.audit(snapshot, name, domain)

    async def finalists(self) -> list[dict[str, Any]]:
        """See `Evaluator.finalists`."""
        return self._evaluator.finalists()

    async def leaderboard(self) -> list[dict[str, Any]]:
        """See `Evaluator.leaderboard`."""
        return self._evaluator.leaderboard()

    async def record_summaries(self, record_ids: list[str]) -> list[dict[str, Any]]:
        """See `Evaluator.record_summaries`."""
        return self._evaluator.record_summaries(record_ids)

    async def record(self, record_id: str) -> dict[str, Any] | None:
        """See `Evaluator.record`."""
        return self._evaluator.record(record_id)

    async def records(self) -> list[dict[str, Any]]:
        """See `Evaluator.records`."""
        return self._evaluator.records()

    async def status(self) -> dict[str, Any]:
        """See `Evaluator.status`."""
        return self._evaluator.status()
