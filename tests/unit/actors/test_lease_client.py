"""The desk's patience: own work that is over budget waits for what other leases give back, and no longer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.evaluator.lease_client import LeaseClient, LeaseSpec
from actors.scheduler.client import SchedulerClient
from cluster.errors import Reason, RefusedError
from cluster.remote import Local
from cluster.store import Store
from gpu_pool.leases import Job, LeaseRequest, LeaseResult


class Purse:
    """A scheduler with money for `room` leases at a time."""

    def __init__(self, room: int) -> None:
        self.room, self.held, self.most, self.refused, self.seconds = room, 0, 0, 0, 0.01

    async def run(self, request: LeaseRequest) -> LeaseResult:
        if self.held >= self.room:
            self.refused += 1
            raise RefusedError(Reason.OVER_BUDGET, "no money left")
        self.held += 1
        self.most = max(self.most, self.held)
        await asyncio.sleep(self.seconds)
        self.held -= 1
        return LeaseResult(request.key, "done", (), 1, 0, 1, "s", "n", "", "A", "p")


def order(label: str, account: str) -> LeaseSpec:
    return LeaseSpec(label, account, "baseline", 1.0, 10.0, 1 << 30, Job(()))


def work(tmp_path: Path, purse: Purse, account: str, count: int) -> list[Any]:
    scheduler = SchedulerClient(Local(purse))
    lease_client = LeaseClient(scheduler, Store(tmp_path / "evaluator.db"), tmp_path / "private", tmp_path / "leases")

    async def go() -> list[Any]:
        runs = (lease_client.run(order(f"piece-{n}", account)) for n in range(count))
        return await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 10)

    return asyncio.run(go())


@pytest.mark.parametrize("room", [1, 2, 5])
def test_own_work_waits_for_what_its_other_leases_give_back(tmp_path: Path, room: int) -> None:
    purse = Purse(room)
    results = work(tmp_path, purse, "campaign/seal", 9)
    assert all(isinstance(result, LeaseResult) for result in results)
    assert purse.most == room
    assert 0 < purse.refused < 9 * 9


def test_who_waits_asks_again_when_a_lease_ended_and_not_when_another_was_refused(tmp_path: Path) -> None:
    purse = Purse(1)
    purse.seconds = 0.5
    results = work(tmp_path, purse, "campaign/seal", 4)
    assert all(isinstance(result, LeaseResult) for result in results)
    assert purse.refused <= 3 + 2 + 1


def test_own_work_without_any_other_lease_is_refused_at_once(tmp_path: Path) -> None:
    (refusal,) = work(tmp_path, Purse(0), "campaign/seal", 1)
    assert isinstance(refusal, RefusedError)


def test_a_researchers_run_does_not_wait(tmp_path: Path) -> None:
    results = work(tmp_path, Purse(1), "campaign/researcher/01-a/evaluations", 3)
    assert [isinstance(result, RefusedError) for result in results] == [False, True, True]
