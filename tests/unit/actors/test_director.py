"""The phase machine with fake services: order, resumption at every point, anchors, stubborn researchers."""

from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actors.director import director as module
from actors.director.director import Director, Services
from actors.director.phases import Phase
from actors.director.stopwatch import Stopwatch
from actors.evaluator.client import EvaluatorClient
from actors.gateway.client import GatewayClient
from actors.observer.live import one_line, render
from actors.researcher.client import ResearcherClient
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig, load_config
from cluster.errors import AarError
from cluster.journal import Journal
from cluster.money import Amounts, Caps
from cluster.names import RunPaths
from cluster.remote import Local
from cluster.store import Store
from tests.unit.wall_clock import STEPS, WallClock


class Killed(BaseException):
    """The process died here."""


class World:
    """Fake services that write down what was asked, and die at the n-th call when told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.caps: dict[str, Caps] = {}
        self.die_at: int | None = None
        self.stopped = asyncio.Event()
        self.stubborn = False
        self.paused: list[str] = []

    def note(self, what: str) -> None:
        if self.die_at is not None and len(self.calls) == self.die_at:
            self.die_at = None
            raise Killed
        self.calls.append(what)

    async def open_account(self, key: str, account: str, parent: str | None, caps: Caps) -> None:
        self.note(f"open {account}")
        self.caps[account] = caps

    async def reserve(self, key: str, account: str, amounts: Amounts, note: str, *rest: str) -> None:
        assert min(amounts.usd, amounts.gpu_ms) > 0
        self.note(f"reserve {key} on {account}")

    async def release(self, key: str, note: str) -> None:
        self.note(f"release {key}")

    async def prepare(self) -> None:
        self.note("prepare")

    async def seal(self) -> None:
        self.note("seal")

    async def status(self) -> dict[str, Any]:
        return {"state": "idle"}

    async def run(self) -> dict[str, Any]:
        self.note("run")
        if self.stubborn:
            await self.stopped.wait()
        return {"state": "ended", "reason": "done"}

    async def stop(self, reason: str) -> None:
        self.note("stop")
        self.stopped.set()

    async def redirect(self, direction: str) -> None:
        self.note(f"redirect to {direction}")

    async def pause(self, reason: str) -> None:
        self.paused.append(reason)

    async def go_on(self) -> None:
        self.paused.clear()


class Gateway:
    """A gateway that notes when it is closed among the calls of the others."""

    def __init__(self, world: World, fault: AarError | None = None) -> None:
        self._world, self._fault = world, fault

    async def call(self, key: str, researcher: str, request: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    async def close(self) -> None:
        self._world.note("close gateway")
        if self._fault is not None:
            raise self._fault

    async def status(self) -> dict[str, Any]:
        return {"running": 1, "waiting": 2, "cache_hit_share": 0.934, "server": {"phase": "ready"}}


def config(**research: float) -> CampaignConfig:
    overrides = tuple(f"research.{key}={value}" for key, value in research.items())
    return load_config(preset="quickstart", overrides=overrides)


def direct(
    root: Path, world: World, settings: CampaignConfig, gateway: Gateway | None = None
) -> tuple[Director, Store]:
    paths = RunPaths(root)
    store = Store(paths.director_db)
    actor = Local(world)
    researchers = dict.fromkeys(settings.researcher_ids()[:2], ResearcherClient(actor))
    model = None if gateway is None else GatewayClient(Local(gateway))
    services = Services(SchedulerClient(actor), EvaluatorClient(actor), researchers, model)
    return Director(paths, store, settings, services), store


def kinds(store: Store) -> list[str]:
    return [event.kind for event in Journal(store).events()]


def phases(store: Store) -> list[str]:
    return [event.payload["phase"] for event in Journal(store).events(kind="phase")]


def test_a_campaign_goes_through_its_phases_in_order(tmp_path: Path) -> None:
    world = World()
    director, store = direct(tmp_path, world, config(minutes=1))
    assert asyncio.run(director.run()) == {"phase": "done"}
    assert phases(store) == ["prepare", "research", "seal", "report", "done"]
    order = ["reserve seal on campaign/seal", "prepare", "run", "release seal", "seal"]
    assert [call for call in world.calls if call in order] == [*order[:2], "run", "run", *order[3:]]
    assert kinds(store).count("campaign_ended") == 1


def test_every_researcher_gets_nested_accounts(tmp_path: Path) -> None:
    world = World()
    director, _ = direct(tmp_path, world, config(minutes=1))
    asyncio.run(director.run())
    assert "open campaign" in world.calls
    assert "open campaign/researcher/09-interpretability/evaluations" in world.calls


def test_a_campaign_whose_ideas_a_model_names_has_a_capped_account_for_it(tmp_path: Path) -> None:
    world = World()
    overrides = ("diversity.model=claude-haiku-4-5", "diversity.usd=0.5", "research.minutes=1")
    director, _ = direct(tmp_path, world, load_config("quickstart", overrides=overrides), Gateway(world))
    asyncio.run(director.run())
    assert world.caps["campaign/ideas"].usd == 500_000
    plain = World()
    asyncio.run(direct(tmp_path / "plain", plain, config(minutes=1))[0].run())
    assert "campaign/ideas" not in plain.caps


def test_ideas_are_looked_at_beside_research_and_a_fault_there_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ANCHOR_S", 0.0)
    monkeypatch.setattr(module, "POLL_S", 0.01)
    world = World()
    world.stubborn = True
    director, _ = direct(tmp_path, world, config(minutes=0.01))
    looked: list[list[str]] = []

    async def look(working: list[str]) -> None:
        looked.append(working)
        raise ValueError("no such thing")

    monkeypatch.setattr(director._ideas, "look", look)
    asyncio.run(director.run())
    assert director.phase is Phase.DONE
    assert len(looked) > 1
    assert looked[0] == list(config().researcher_ids()[:2])
    assert "the watch over ideas failed" in caplog.text


@pytest.mark.parametrize("at", range(0, 46, 3))
def test_a_director_killed_anywhere_ends_in_the_same_place(tmp_path: Path, at: int) -> None:
    world = World()
    world.die_at = at
    director, store = direct(tmp_path, world, config(minutes=1))
    try:
        asyncio.run(director.run())
    except Killed:
        store.close()
        director, store = direct(tmp_path, world, config(minutes=1))
        asyncio.run(director.run())
    assert director.phase is Phase.DONE
    assert phases(store) == ["prepare", "research", "seal", "report", "done"]
    assert kinds(store).count("campaign_ended") == 1


def test_a_finished_campaign_stays_finished(tmp_path: Path) -> None:
    world = World()
    director, store = direct(tmp_path, world, config(minutes=1))
    asyncio.run(director.run())
    calls = list(world.calls)
    store.close()
    director, _ = direct(tmp_path, world, config(minutes=1))
    asyncio.run(director.run())
    assert world.calls == calls


def test_research_ends_at_its_deadline(tmp_path: Path) -> None:
    world = World()
    world.stubborn = True
    director, store = direct(tmp_path, world, config(minutes=0.005))
    asyncio.run(director.run())
    assert "stop" in world.calls
    ended = [event.payload for event in Journal(store).events(kind="researcher_ended")]
    assert [row["reason"] for row in ended] == ["done", "done"]


@pytest.mark.parametrize("fault", [None, AarError("the gateway did not answer close")])
def test_model_servers_are_ended_after_research_and_before_sealing(tmp_path: Path, fault: AarError | None) -> None:
    world = World()
    director, _ = direct(tmp_path, world, config(minutes=1), Gateway(world, fault))
    asyncio.run(director.run())
    assert director.phase is Phase.DONE
    assert [call for call in world.calls if call in ("run", "close gateway", "seal")] == [
        "run", "run", "close gateway", "seal",
    ]  # fmt: skip


def test_the_live_view_shows_calls_and_the_models_server(tmp_path: Path) -> None:
    world = World()
    director, _ = direct(tmp_path, world, config(minutes=1), Gateway(world))
    status = asyncio.run(director.status())
    assert "1 calls, 2 wait, cache 93%" in one_line("c", status)
    for leases, phase in (([{"kind": "serve"}], "ready"), ([{"kind": "pilot"}], "stopped")):
        shown = one_line("c", {**status, "scheduler": {**status["scheduler"], "running": leases}})
        assert f"model server {phase}" in shown
    quiet, _ = direct(tmp_path / "quiet", World(), config(minutes=1))
    status = asyncio.run(quiet.status())
    assert "calls" not in one_line("c", status)
    assert "alike" in one_line("c", {**status, "alarm": "ideas are alike"})


def test_the_live_view_says_who_is_paused_and_the_whole_reason() -> None:
    reason = "paused: needs a person: the endpoint refuses the key; see to brain.key_file, nothing is lost meanwhile"
    paused = {"state": "paused", "last_action": reason}
    states = {"01-a": paused, "02-b": {"state": "working", "last_action": "deciding"}, "03-c": paused}
    line = one_line("c", {"researchers": states})
    assert f"paused: 01-a, 03-c: {reason.removeprefix('paused: ')}" in line
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render("c", {"researchers": states}))
    assert f"01-a, 03-c: {reason.removeprefix('paused: ')}" in console.export_text()
    assert "paused" not in one_line("c", {"researchers": {"02-b": states["02-b"]}})


def test_time_in_which_the_campaign_is_down_is_no_research_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "director.db")
    watch = Stopwatch(store, "research")
    watch._began -= 40.0
    watch.save(now=True)
    store.close()
    time.sleep(0.05)
    store = Store(tmp_path / "director.db")
    again = Stopwatch(store, "research")
    assert 40.0 <= again.seconds < 40.04


def test_research_goes_on_with_what_was_left(tmp_path: Path) -> None:
    store = Store(RunPaths(tmp_path).director_db)
    watch = Stopwatch(store, "research")
    watch._began -= 59.9
    watch.save(now=True)
    store.close()
    world = World()
    world.stubborn = True
    director, store = direct(tmp_path, world, config(minutes=1))
    began = time.monotonic()
    asyncio.run(director.run())
    assert "stop" in world.calls
    assert time.monotonic() - began < 5


def test_a_researcher_that_does_not_stop_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.1)

    class Deaf(World):
        async def stop(self, reason: str) -> None:
            self.note("stop")

    world = Deaf()
    world.stubborn = True
    director, store = direct(tmp_path, world, config(minutes=0.005))
    asyncio.run(director.run())
    ended = [event.payload["ended"] for event in Journal(store).events(kind="researcher_ended")]
    assert ended == ["did not stop in time"] * 2


def test_a_researcher_that_fails_does_not_end_the_campaign(tmp_path: Path) -> None:
    class Broken(World):
        async def run(self) -> dict[str, Any]:
            raise AarError("its disk is gone")

    director, store = direct(tmp_path, Broken(), config(minutes=1))
    asyncio.run(director.run())
    ended = [event.payload for event in Journal(store).events(kind="researcher_ended")]
    assert ended[0]["error"] == "its disk is gone"
    assert director.phase is Phase.DONE


def test_anchors_hold_the_heads_of_the_other_journals(tmp_path: Path) -> None:
    other = Store(tmp_path / "forum.db")
    event = Journal(other).append("post", {"n": 1})
    director, store = direct(tmp_path, World(), config(minutes=1))
    asyncio.run(director.run())
    anchors = [event.payload for event in Journal(store).events(kind="anchor")]
    assert anchors[-1] == {"forum": {"seq": 1, "hash": event.hash}}


def test_a_broken_journal_stops_the_director(tmp_path: Path) -> None:
    other = Store(tmp_path / "forum.db")
    journal = Journal(other)
    journal.append("post", {"n": 1})
    journal.append("post", {"n": 2})
    with other.transaction() as db:
        db.execute("DELETE FROM journal WHERE seq = 1")
    director, _ = direct(tmp_path, World(), config(minutes=1))
    with pytest.raises(AarError, match="journal of forum is broken"):
        asyncio.run(director.run())


class Board(World):
    """Services whose board never moves."""

    async def status(self) -> dict[str, Any]:
        return {"state": "working", "board_moved_us": 0}


@pytest.mark.parametrize("step", STEPS)
def test_research_and_its_plateau_are_not_ended_by_a_step_of_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wall: WallClock, step: int
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.02)
    world = Board()
    world.stubborn = True
    settings = config(minutes=5, plateau_minutes=0.02)
    director, store = direct(tmp_path, world, settings)

    async def main() -> float:
        began = time.monotonic()
        work = asyncio.create_task(director.run())
        while director.phase is not Phase.RESEARCH:
            await asyncio.sleep(0.01)
        wall.step(step)
        assert 0 <= (await director.status())["wall_seconds"] < 30
        await work
        return time.monotonic() - began

    assert asyncio.run(main()) >= 1.2  # the plateau's, not the step's
    (ended,) = Journal(store).events(kind="campaign_ended")
    assert 1_000_000 < ended.payload["wall_us"] < 60_000_000


def test_a_plateau_counts_from_the_last_move_of_the_board_in_seconds_of_research(tmp_path: Path) -> None:
    world = World()
    director, store = direct(tmp_path, world, config(minutes=5, plateau_minutes=1))
    moved = 0

    async def status() -> dict[str, Any]:
        return {"board_moved_us": moved}

    world.status = status  # type: ignore[method-assign]

    class Watch:
        seconds = 0.0

    watch: Any = Watch()
    assert not asyncio.run(director._plateau(watch))
    watch.seconds = 50.0
    moved = 7
    assert not asyncio.run(director._plateau(watch))
    watch.seconds = 105.0
    assert not asyncio.run(director._plateau(watch))
    store.close()
    director, _ = direct(tmp_path, world, config(minutes=5, plateau_minutes=1))
    watch.seconds = 111.0
    assert asyncio.run(director._plateau(watch))


def test_a_status_that_fails_is_counted_and_hides_no_other(tmp_path: Path) -> None:
    class Mute(World):
        async def status(self) -> dict[str, Any]:
            raise UnicodeEncodeError("ascii", "ä", 0, 1, "ordinal not in range")

    director, _ = direct(tmp_path, Mute(), config(minutes=1), Gateway(World()))
    for _ in range(2):
        status = asyncio.run(director.status())
    assert status["gateway"]["running"] == 1
    assert status["scheduler"] == {"state": "unreachable"}
    assert status["unobserved"]["status of evaluator"]["times"] == 2
    assert "status of scheduler, 2 times: UnicodeEncodeError" in one_line("c", status)
