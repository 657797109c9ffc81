"""The scheduler killed at any point: a new one on the same files finishes the work, and nothing is charged twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.scheduler.audit import audit
from actors.scheduler.scheduler import Scheduler
from cluster.errors import RefusedError
from cluster.money import Amounts
from cluster.store import open_readonly
from gpu_pool.leases import Lease, LeaseResult
from tests.unit.actors.scheduler_fakes import (
    Camera,
    FakeSlot,
    Office,
    a_request,
    a_result,
    furnish,
    image,
    scratch,
    spent,
)

A, B = "campaign/researcher/01-a", "campaign/researcher/02-b"


def test_a_restarted_scheduler_finds_slots_and_queue_and_joins_what_runs() -> None:
    async def main(directory: Path) -> None:
        slots = {"s": FakeSlot(0.3)}
        first = Office(directory / "1" / "s.db", slots)
        async with first as scheduler:
            await furnish(scheduler, slots)
            ids = [await scheduler.submit(a_request(f"k{n}", A, gpus=1.0)) for n in range(2)]
            await asyncio.sleep(0.01)
            assert slots["s"].started == ["r000001-1"]
            crashed = image(first.store.path, directory / "2")
        async with Office(crashed, slots) as scheduler:
            assert [await scheduler.submit(a_request(f"k{n}", A, gpus=1.0)) for n in range(2)] == ids
            results = [await scheduler.wait(request_id, 5) for request_id in ids]
            assert [r and r.status for r in results] == ["done", "done"]
            assert spent(scheduler) == (112, 0, 200, 0)
        assert audit(open_readonly(crashed)) == []

    with scratch() as directory:
        asyncio.run(main(directory))


def test_a_crash_at_any_statement_of_a_busy_office_loses_and_doubles_nothing() -> None:
    """Images of a run with a loss, a cancellation and a refusal; from each one a new scheduler finishes the work."""
    slots: dict[str, FakeSlot] = {}

    def behave(slot: FakeSlot, lease: Lease) -> LeaseResult:
        lost = lease.id.endswith("-1") and lease.request.key == "k1"
        return a_result(lease, "lost" if lost else "done")

    async def work(scheduler: Scheduler) -> None:
        await furnish(scheduler, slots, gpu_ms=3000)
        for n, account in enumerate((A, B, A, A)):
            await scheduler.submit(a_request(f"k{n}", account, gpus=0.6))
        await scheduler.cancel("k3")
        with pytest.raises(RefusedError):
            await scheduler.submit(a_request("k9", B, gpus=1.0, seconds=60))
        await scheduler.spend("e", A, Amounts(answers=1))
        for n in range(4):
            assert await scheduler.run(a_request(f"k{n}", (A, B, A, A)[n], gpus=0.6))

    async def main(directory: Path) -> None:
        slots["s"] = FakeSlot(0.002, behave)
        office = Office(directory / "0" / "s.db", slots)
        async with office as scheduler:
            with Camera(office.store, directory) as camera:
                await asyncio.wait_for(work(scheduler), 10)
        assert len(camera.images) >= 18
        for path in camera.images:
            assert audit(open_readonly(path)) == []
            slots["s"] = FakeSlot(0.0, behave)
            async with Office(path, slots) as scheduler:
                await asyncio.wait_for(work(scheduler), 10)
                states = [e.state for e in (scheduler.book.by_key(f"k{n}") for n in range(4)) if e is not None]
                assert states[:3] == ["done"] * 3
                charged = 60 * states.count("done")
                assert spent(scheduler)[2:] == (charged, 0)
                assert len(slots["s"].started) == len(set(slots["s"].started))
            assert audit(open_readonly(path)) == []

    with scratch() as directory:
        asyncio.run(main(directory))


def test_the_audit_finds_a_lease_whose_cost_was_changed() -> None:
    async def main(directory: Path) -> None:
        slots = {"s": FakeSlot()}
        office = Office(directory / "s.db", slots)
        async with office as scheduler:
            await furnish(scheduler, slots)
            await scheduler.run(a_request("k", A))
            scheduler.journal.append("lease_ended", {"request_id": "r000001", "status": "done", "usd": 1, "gpu_ms": 1})
        faults = audit(open_readonly(directory / "s.db"))
        assert any("ends after it ended" in f.text for f in faults)
        assert any("says it cost 1" in f.text for f in faults)

    with scratch() as directory:
        asyncio.run(main(directory))
