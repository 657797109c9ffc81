"""The judge is killed at every step outside itself, and everything is done exactly once all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from actors.evaluator.evaluator import Evaluator
from actors.evaluator.splits import TruthError
from cluster.errors import Reason, RefusedError
from cluster.journal import verify_chain
from cluster.store import open_readonly
from tests.unit.actors.evaluator_world import KilledError, World

A = "01-a"


def killed_everywhere(
    world: World, work: Callable[[Evaluator], Coroutine[Any, Any, Any]], when: str
) -> tuple[Any, int]:
    """Carry `work` out, killing the judge once before or after each call to the scheduler; result and deaths."""
    died: set[tuple[str, str]] = set()

    def kill(what: str, key: str) -> None:
        if (what, key) not in died:
            died.add((what, key))
            raise KilledError(key)

    setattr(world.scheduler, when, kill)
    for _ in range(200):
        try:
            result = asyncio.run(work(world.evaluator))
        except KilledError:
            world.start()
            continue
        setattr(world.scheduler, when, lambda what, key: None)
        return result, len(died)
    raise AssertionError("it never came to an end")


async def campaign(judge: Evaluator, world: World) -> dict[str, Any]:
    await judge.prepare()
    answers = [
        await judge.submit(f"{A}/1", A, world.method(0.86), "one", "dev"),
        await judge.submit(f"{A}/2", A, world.method(0.88), "two", "board"),
    ]
    return {"answers": answers, "sealed": await judge.seal()}


def figures(world: World) -> list[dict[str, Any]]:
    """Records without what differs between two runs of the same campaign."""
    return sorted(
        (
            {k: v for k, v in r.items() if k not in ("record_id", "created_us", "signature", "lease_ids")}
            for r in world.evaluator.records()
        ),
        key=lambda r: (r["tier"], r["method"]),
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_campaign_killed_at_every_step_ends_as_if_nothing_had_happened(tmp_path: Path, when: str) -> None:
    sizes = {"seal_seeds": 3, "board_seeds": 3, "finalists": 1}
    calm = World(tmp_path / "calm", scoring=sizes)
    wanted = asyncio.run(campaign(calm.evaluator, calm))
    world = World(tmp_path / "killed", secret=(calm.paths.judge / "secret.bin").read_bytes(), scoring=sizes)
    result, deaths = killed_everywhere(world, lambda judge: campaign(judge, world), when)
    assert deaths == len(world.scheduler.requests) + len(world.scheduler.spent)
    assert set(world.scheduler.requests) == set(calm.scheduler.requests)
    assert len(world.scheduler.spent) == 2
    assert figures(world) == figures(calm)
    for got, expected in zip(result["answers"], wanted["answers"], strict=True):
        assert {**got, "record_id": ""} == {**expected, "record_id": ""}
    for kind in ("submission", "submission_answered", "candidates_ranked", "finalists_frozen", "sealed"):
        assert len(world.kinds(kind)) == len(calm.kinds(kind))
    assert len({r["record_id"] for r in world.evaluator.records()}) == len(world.evaluator.records())
    assert verify_chain(open_readonly(world.paths.evaluator_db)).broken is None


def test_a_campaign_with_a_cheat_killed_at_every_step_seals_the_same_method_and_opens_one_case(tmp_path: Path) -> None:
    sizes = {"seal_seeds": 3, "board_seeds": 3, "finalists": 1}

    async def cheated(judge: Evaluator, world: World) -> dict[str, Any]:
        await judge.prepare()
        for number, (skill, extra) in enumerate(((0.90, "CHEATS = 1"), (0.80, ""))):
            await judge.submit(f"k{number}", A, world.method(skill, extra), f"m{number}", "dev")
        return await judge.seal()

    world = World(tmp_path, secret=bytes(range(32)), scoring=sizes)
    result, deaths = killed_everywhere(world, lambda judge: cheated(judge, world), "after")
    assert deaths == len(world.scheduler.requests) + len(world.scheduler.spent)
    (record,) = (world.evaluator.record(record_id) for record_id in result["records"])
    assert record is not None
    assert record["method"] == "m1"
    for kind in ("candidates_ranked", "finalists_frozen", "case_opened", "sealed"):
        assert len(world.kinds(kind)) == 1
    assert len([key for key in world.scheduler.requests if "audit/chat" in key]) == 4


def test_a_submission_that_was_journaled_but_not_run_is_carried_out_by_the_successor(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(world.evaluator.prepare())

    def kill(what: str, key: str) -> None:
        raise KilledError

    world.scheduler.before = kill
    with pytest.raises(KilledError):
        asyncio.run(world.evaluator.submit("k", A, world.method(0.8), "one", "dev"))
    assert len(world.kinds("submission")) == 1
    assert world.scheduler.spent == {}
    world.scheduler.before = lambda what, key: None
    world.start()

    async def live() -> None:
        await world.evaluator.prepare()
        for _ in range(100):
            if not world.evaluator.status()["open"]:
                return
            await asyncio.sleep(0.01)

    asyncio.run(live())
    assert len(world.kinds("submission_answered")) == 1
    assert len(world.scheduler.spent) == 1
    leases = len(world.scheduler.requests)
    answer = asyncio.run(world.evaluator.submit("k", A, world.method(0.8), "one", "dev"))
    assert answer["record_id"] == world.kinds("submission_answered")[0]["record_id"]
    assert len(world.scheduler.requests) == leases


def test_a_refusal_in_the_middle_leaves_the_books_in_order(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(world.evaluator.prepare())

    def refuse(what: str, key: str) -> None:
        if what == "run":
            raise RefusedError(Reason.OVER_BUDGET, "not enough GPU time", {"account": "x"})

    world.scheduler.before = refuse
    for _ in range(2):
        with pytest.raises(RefusedError, match="not enough"):
            asyncio.run(world.evaluator.submit("k", A, world.method(0.8), "one", "dev"))
    assert len(world.scheduler.spent) == 1
    assert world.evaluator.status()["open"] == 0
    world.scheduler.before = lambda what, key: None
    assert asyncio.run(world.evaluator.submit("k2", A, world.method(0.8), "one", "dev"))["failed_seeds"] == 0
    assert len(world.scheduler.spent) == 2


def test_frozen_finalists_stay_frozen_after_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(world.evaluator.prepare())
    asyncio.run(world.evaluator.submit("k", A, world.method(0.8), "one", "dev"))

    def kill(what: str, key: str) -> None:
        raise KilledError

    world.scheduler.before = kill
    with pytest.raises(KilledError):
        asyncio.run(world.evaluator.seal())
    frozen = world.evaluator.finalists()
    assert len(frozen) == 1
    world.start()
    assert world.evaluator.finalists() == frozen
    with pytest.raises(RefusedError, match="frozen"):
        asyncio.run(world.evaluator.submit("k9", A, world.method(0.9), "late", "dev"))


def test_a_campaign_is_not_resumed_on_other_pools(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.paths.judge / "secret.bin").write_bytes(bytes(32))
    with pytest.raises(TruthError, match="not those that this campaign began with"):
        world.start()
