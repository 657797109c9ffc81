"""A campaign without room: it pauses, says so everywhere, charges nobody, and goes on by itself."""

from __future__ import annotations

import asyncio
import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actors.director import director as director_module
from actors.director import room as module
from actors.director.phases import Phase
from actors.observer.live import one_line, render
from actors.observer.run_data import load_run
from actors.observer.summary import build_summary
from cluster.errors import AarError
from cluster.journal import Journal
from cluster.names import RunPaths
from cluster.storage import StorageError
from tests.unit.actors.test_director import World, config, direct

FULL = "the run directory /r has 0 MiB free, 256 MiB are needed"


class Disk:
    """What the guard finds when it looks."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.faults: list[str] = []
        patch.setattr(module, "CHECK_S", 0.02)
        patch.setattr(director_module, "POLL_S", 0.02)
        patch.setattr(module.RoomGuard, "_faults", lambda _: list(self.faults))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


def test_a_pause_stops_researchers_leases_and_the_clock_is_said_everywhere_and_ends_by_itself(
    tmp_path: Path, disk: Disk
) -> None:
    world = World()
    world.stubborn = True
    director, store = direct(tmp_path, world, config(minutes=5))

    async def main() -> None:
        work = asyncio.create_task(director.run())
        await until(lambda: director.phase is Phase.RESEARCH and "run" in world.calls)
        disk.faults = [FULL]
        await until(lambda: world.paused)
        status = await director.status()
        assert FULL in status["paused"]["reason"]
        assert one_line("c", status).startswith("PAUSED for")
        console = Console(width=300, record=True, file=io.StringIO())
        console.print(render("c", status))
        assert FULL in console.export_text()
        left = director._research_left_s()
        await asyncio.sleep(0.1)
        assert director._research_left_s() == left
        assert "the campaign is paused" in str(build_summary(load_run(tmp_path))["warnings"])
        assert not work.done()
        disk.faults = []
        await until(lambda: not world.paused)
        assert (await director.status())["paused"] is None
        await asyncio.sleep(0.05)
        assert director._research_left_s() < left
        world.stopped.set()
        await work

    asyncio.run(main())
    (pause,) = build_summary(load_run(tmp_path))["pauses"]
    assert pause["reason"] == FULL
    assert pause["seconds"] >= 0.1
    assert not any("paused" in warning for warning in build_summary(load_run(tmp_path))["warnings"])
    assert [event.kind for event in Journal(store).events() if event.kind in ("paused", "went_on")] == [
        "paused", "went_on",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fault", [StorageError("full"), OSError(errno.ENOSPC, "no room", "/x"), OSError(errno.EROFS, "read-only", "/x")]
)
@pytest.mark.parametrize("phase", ["prepare", "seal"])
def test_a_phase_that_storage_stopped_is_carried_out_when_there_is_room(
    tmp_path: Path, disk: Disk, fault: Exception, phase: str
) -> None:
    world = World()
    times = 3

    async def hurt() -> None:
        nonlocal times
        if times:
            times -= 1
            raise fault
        world.note(phase)

    setattr(world, phase, hurt)
    director, store = direct(tmp_path, world, config(minutes=1))
    asyncio.run(director.run())
    assert director.phase is Phase.DONE
    assert world.calls.count(phase) == 1
    assert [e.payload["phase"] for e in Journal(store).events(kind="phase")].count(phase) == 1


def test_another_fault_still_ends_a_phase(tmp_path: Path, disk: Disk) -> None:
    world = World()

    async def broken() -> None:
        raise AarError("no such model")

    world.prepare = broken  # type: ignore[method-assign]
    with pytest.raises(AarError, match="no such model"):
        asyncio.run(direct(tmp_path, world, config(minutes=1))[0].run())


def test_a_pause_that_a_killed_director_left_is_over_when_its_successor_finds_room(tmp_path: Path, disk: Disk) -> None:
    world = World()
    world.paused = ["left over"]
    director, store = direct(tmp_path, world, config(minutes=1))
    Journal(store).append("paused", {"number": 1, "reason": FULL})
    store.close()
    director, store = direct(tmp_path, world, config(minutes=1))
    asyncio.run(director.run())
    assert world.paused == []
    assert len(Journal(store).events(kind="went_on")) == 1


def test_a_pause_that_cannot_be_written_down_is_written_when_it_can(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    director, store = direct(tmp_path, world, config(minutes=1))
    guard, append, full = director._room, Journal.append, True

    def unwritten(self: Journal, kind: str, payload: dict[str, Any]) -> Any:
        if full:
            raise StorageError("full")
        return append(self, kind, payload)

    async def main() -> None:
        nonlocal full
        monkeypatch.setattr(Journal, "append", unwritten)
        disk.faults = [FULL]
        await guard.look()
        assert guard.status() is not None
        disk.faults = []
        await guard.look()
        assert guard.status() is not None  # not over before it can be written that it is
        full = False
        await guard.look()
        assert guard.status() is None

    asyncio.run(main())
    assert [event.kind for event in Journal(store).events()] == ["paused", "went_on"]


def test_the_guard_sees_a_directory_that_is_taken_away_and_a_store_that_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.storage.LOCKED_S", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "run"
    director, store = direct(root, World(), config(minutes=1))
    assert director._room._faults() == []
    with store.transaction():
        assert "the store of director: another process holds its lock" in str(director._room._faults())
    assert director._room._faults() == []
    root.rename(tmp_path / "away")
    faults = director._room._faults()
    assert any("run directory" in fault and "is gone" in fault for fault in faults)
    assert any("store of director" in fault for fault in faults)
    (tmp_path / "away").rename(root)
    assert director._room._faults() == []
    assert RunPaths(root).director_db.exists()
