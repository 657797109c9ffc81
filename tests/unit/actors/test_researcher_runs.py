from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from actors.researcher.stall_detection import PAUSED_TITLE
from actors.researcher.tools.notifier import UNREAD_LIMIT
from actors.researcher.types import Decision, Observation, ToolCall
from cluster.errors import Reason, RefusedError
from gpu_pool.leases import LeaseRequest, LeaseResult
from tests.unit.actors.researcher_world import CAPS, Crash, Offices, World

METHOD = "def train(run):\n    return None\n"
WRITE = ToolCall("write_file", {"path": "m.py", "content": METHOD})
PILOT = ToolCall("run_pilot", {"path": "m.py", "items": 64, "background": True})
SUBMIT = ToolCall("submit", {"path": "m.py", "name": "first", "background": True})


class Scripted:
    """Plays turns; a step that is an exception is raised."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.asked: list[Observation] = []

    async def decide(self, observation: Observation) -> Decision:
        self.asked.append(observation)
        step = self.steps[observation.turn] if observation.turn < len(self.steps) else (ToolCall("finish"),)
        if isinstance(step, BaseException):
            self.steps[observation.turn] = (ToolCall("wait", {"seconds": 20, "until": "run"}),)
            raise step
        return Decision(step)


class Slow(Offices):
    """Offices whose runs and scores take until they are let go."""

    def __post_init__(self) -> None:
        self.let_go = asyncio.Event()

    async def run(self, request: LeaseRequest) -> LeaseResult:
        await self.let_go.wait()
        return await super().run(request)

    async def submit(self, *args: Any) -> dict[str, Any]:
        await self.let_go.wait()
        return await super().submit(*args)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.researcher.tools.base.AT_ONCE_S", 0.02)


def test_a_run_outlives_its_researcher_and_is_what_it_was_started_as(tmp_path: Path) -> None:
    offices = Slow(tmp_path, dict(CAPS))
    brain = Scripted((WRITE,), (SUBMIT, PILOT), Crash())
    world = World(tmp_path, brain=brain, offices=offices)
    with pytest.raises(Crash):
        asyncio.run(world.start().run())
    assert [turn.done[0].result.content.get("state") for turn in world.transcript.history[1:]] == ["started"]
    (world.ctx.workspace.root / "m.py").write_text("this is no method any more")
    offices.let_go = asyncio.Event()
    offices.let_go.set()
    summary = asyncio.run(world.start().run())
    assert (summary["pilots"], summary["submissions"]) == (1, 1)
    assert summary["best"]["pgr"] == 0.4
    assert sorted(e for e in offices.effects if "/1/" in e and "wall" not in e) == [
        f"push:{world.researcher}/1/0/push",
        f"run:{world.researcher}/1/1",
        f"submit:{world.researcher}/1/0",
    ]
    told = [news["run"] for turn in world.transcript.history for news in turn.seen.news]
    assert sorted(told) == ["run-1-0", "run-1-1"]


def test_a_refusal_is_told_at_once(tmp_path: Path) -> None:
    offices = Offices(tmp_path, {**CAPS, "gpu_ms": 10})
    missing = ToolCall("run_pilot", {"path": "missing.py", "background": True})
    world = World(tmp_path, brain=Scripted((WRITE,), (PILOT, missing)), offices=offices)
    world.run()
    done = world.transcript.history[1].done
    assert [d.result.reason for d in done] == ["over_budget", "not_found"]
    assert not any(turn.seen.news for turn in world.transcript.history)


def test_a_run_that_fails_later_is_news_too(tmp_path: Path) -> None:
    class Failing(Offices):
        async def run(self, request: LeaseRequest) -> LeaseResult:
            await asyncio.sleep(0.1)
            raise RefusedError(Reason.QUEUE_FULL, "too many wait")

    wait = ToolCall("wait", {"seconds": 20, "until": "any"})
    world = World(tmp_path, brain=Scripted((WRITE,), (PILOT,), (wait,)), offices=Failing(tmp_path, dict(CAPS)))
    summary = world.run()
    assert (summary["pilots"], summary["refused"]) == (0, 1)
    history = world.transcript.history
    assert history[2].done[0].result.content["woken_by"] == "run"
    assert history[3].seen.news[0]["result"]["reason"] == "queue_full"


def test_the_end_stops_what_still_runs(tmp_path: Path) -> None:
    offices = Slow(tmp_path, dict(CAPS))
    world = World(tmp_path, brain=Scripted((WRITE,), (PILOT,)), offices=offices)
    assert world.run()["ended"] == "the brain is done"
    assert f"cancel:{world.researcher}/1/0" in offices.effects


@pytest.mark.parametrize(
    ("until", "title", "woken_by"),
    [
        ("run", "news", "nothing"),
        ("post", "news", "post"),
        ("any", "news", "post"),
        ("time", "news", "time"),
        ("any", PAUSED_TITLE, "time"),
    ],
)
def test_a_wait_ends_by_what_it_waits_for(tmp_path: Path, until: str, title: str, woken_by: str) -> None:
    offices = Offices(tmp_path, dict(CAPS))

    class Posting(Scripted):
        async def decide(self, observation: Observation) -> Decision:
            if observation.turn == 0:
                offices.add_post("02-other", kind="insight", title=title, body="")
            return await super().decide(observation)

    wait = ToolCall("wait", {"seconds": 0.05, "until": until})
    world = World(tmp_path, brain=Posting((wait,)), offices=offices)
    world.run()
    assert world.transcript.history[0].done[0].result.content["woken_by"] == woken_by


def test_a_post_ends_a_wait_that_is_under_way_and_any_number_of_pauses_before_it_does_not(tmp_path: Path) -> None:
    offices = Offices(tmp_path, dict(CAPS))
    wait = ToolCall("wait", {"seconds": 30, "until": "post"})
    world = World(tmp_path, brain=Scripted((wait,)), offices=offices)

    async def live() -> float:
        running = asyncio.create_task(world.start().run())
        await asyncio.sleep(0.2)
        for number in range(2 * UNREAD_LIMIT + 1):
            offices.add_post(f"{number}-other", kind="error", title=PAUSED_TITLE, body="")
        await asyncio.sleep(0.2)
        assert not running.done()
        began = time.monotonic()
        offices.add_post("02-other", kind="insight", title="news", body="")
        await running
        return time.monotonic() - began

    assert asyncio.run(live()) < 5
    assert world.transcript.history[0].done[0].result.content["woken_by"] == "post"


def test_a_stop_ends_a_wait_that_is_under_way(tmp_path: Path) -> None:
    world = World(tmp_path, brain=Scripted((ToolCall("wait", {"seconds": 30}),)))

    async def live() -> None:
        researcher = world.start()
        running = asyncio.create_task(researcher.run())
        await asyncio.sleep(0.2)
        await researcher.stop()
        await asyncio.wait_for(running, 5)

    asyncio.run(live())
    assert world.transcript.history[0].done[0].result.content["woken_by"] == "stop"
