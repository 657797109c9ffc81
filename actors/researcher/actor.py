"""The Ray shell of a researcher: it opens the store, ties the tools to the services, and runs the loop.

Imports no torch: a team of researchers must fit beside the training that they order.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from actors.evaluator.client import EvaluatorClient
from actors.gateway.client import GatewayClient
from actors.researcher.account import Account
from actors.researcher.brains.base import BrainContext, make_brain
from actors.researcher.loop import Profile, Researcher
from actors.researcher.progress import Progress
from actors.researcher.runs import Runs
from actors.researcher.tools import Context, Notifier, make_toolbox
from actors.researcher.transcript import Transcript
from actors.researcher.workspace import Workspace
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig, validate
from cluster.errors import AarError
from cluster.journal import Journal
from cluster.names import RunPaths
from cluster.store import Store
from forum_actor.client import ForumClient

FIRST_RESEARCHER_UID = 65001
"""Shell sandboxes of researcher n run under this uid plus n; slots use those from 64001."""
TRANSPORT: tuple[type[Exception], ...] = (RayError,)


@ray.remote(max_restarts=-1, max_task_retries=-1)
class ResearcherActor:
    """One researcher; all state is read again from `run_dir` after a restart, and `run` then resumes."""

    def __init__(self, run_dir: str, config: dict[str, Any], researcher_id: str) -> None:
        self._id = researcher_id
        self._paths = RunPaths(Path(run_dir).absolute())
        self._config = validate(config)
        self._store = Store(self._paths.researcher_db(researcher_id))
        self._runs = Runs(self._store)
        self._transcript = Transcript(self._store, Journal(self._store), self._runs, researcher_id)
        campaign = self._paths.root.name
        self._scheduler = SchedulerClient.of(campaign)
        self._forum = ForumClient.of(campaign)
        self._evaluator = EvaluatorClient.of(campaign)
        self._gateway = GatewayClient.of(campaign)
        budget = self._config.budget
        self._account = Account(self._scheduler, researcher_id, budget.researcher.caps(), budget.campaign.caps())
        self._opening = asyncio.Lock()
        self._researcher: Researcher | None = None

    async def run(self) -> dict[str, Any]:
        """Work to the end and return the summary; idempotent, resumes after a restart."""
        async with self._opening:
            if self._researcher is None:
                self._researcher = self._build()
        return await self._researcher.run()

    async def stop(self, reason: str = "the research phase is over") -> None:
        """End after the running call."""
        if self._researcher is not None:
            await self._researcher.stop(reason)
        elif self._transcript.fact("ended") is None:
            self._transcript.set_fact("stop", {"reason": reason})

    async def pause(self, reason: str) -> None:
        """Begin no step and count no time until `go_on`."""
        if self._researcher is not None:
            await self._researcher.pause(reason)

    async def go_on(self) -> None:
        """The pause is over."""
        if self._researcher is not None:
            await self._researcher.go_on()

    async def redirect(self, direction: str) -> None:
        """Go on from this direction, from the next turn on; the first one stays."""
        self._transcript.redirect(direction)

    async def status(self) -> dict[str, Any]:
        """State, turn, last action, counts and best score."""
        if self._researcher is None:
            progress = Progress.of(self._transcript.history).to_dict()
            return {"state": self._state(), "turn": self._transcript.next_turn(), "last_action": "", **progress}
        return self._researcher.status()

    async def head(self) -> dict[str, Any]:
        """The head of the researcher's journal, for the director's anchors."""
        seq, digest = Journal(self._store).head()
        return {"seq": seq, "hash": digest}

    def __repr__(self) -> str:
        return f"AAR({self._id}, {self._state()})"

    def _state(self) -> str:
        if self._researcher is not None:
            return self._researcher.state
        return "ended" if self._transcript.fact("ended") is not None else "idle"

    def _build(self) -> Researcher:
        config = self._config
        number = config.researcher_ids().index(self._id)
        home = self._paths.workspace(self._id)
        public = self._paths.public / config.task.domains[0]
        ctx = Context(
            researcher=self._id,
            account=self._account.name,
            config=config,
            workspace=Workspace(home, home.parent / "private", FIRST_RESEARCHER_UID + number),
            public=str(public),
            task=_read_task(public / "task.json"),
            scheduler=self._scheduler,
            forum=self._forum,
            evaluator=self._evaluator,
            runs=self._runs,
            notifier=Notifier(self._forum, self._id),
            sandbox_uid=FIRST_RESEARCHER_UID + number,
            failures=TRANSPORT,
        )
        toolbox = make_toolbox(ctx)
        profile = _profile(config, self._id, ctx, str(home))
        notebook = ctx.workspace.notebook
        made_of = BrainContext(
            config, self._id, profile.direction, ctx.task, toolbox.describe(), self._gateway, notebook
        )
        brain = make_brain(made_of)
        return Researcher(profile, brain, toolbox, self._transcript, self._account)


def _profile(config: CampaignConfig, researcher: str, ctx: Context, home: str) -> Profile:
    return Profile(
        researcher=researcher,
        direction=config.direction_of(researcher).text,
        task=ctx.task,
        max_turns=config.researchers.max_turns,
        seconds=config.research.minutes * 60,
        forum=config.forum.enabled,
        workspace=home,
        watched=config.brain.calls_model,
    )


def _read_task(path: Path) -> dict[str, Any]:
    try:
        task = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AarError(f"the task is not prepared: {path}: {error}") from error
    if not isinstance(task, dict):
        raise AarError(f"the task is not prepared: {path} holds no object")
    return task
