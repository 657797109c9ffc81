"""The scheduler with fake slots: budgets, retries, crashes, cancellation, fairness, shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scheduler import scheduler as module
from actors.scheduler.audit import audit
from actors.scheduler.scheduler import Scheduler, SchedulerConfig
from cluster.errors import AarError, RefusedError
from cluster.money import Amounts, Caps
from cluster.storage import StorageError
from cluster.store import open_readonly
from gpu_pool.leases import ClosedError, Job, Lease, LeaseResult
from tests.unit.actors.scheduler_fakes import (
    CONFIG,
    FakeSlot,
    Office,
    a_request,
    a_result,
    a_slot_info,
    furnish,
    scratch,
    spent,
)
from tests.unit.wall_clock import STEPS, WallClock

A, B = "campaign/researcher/01-a", "campaign/researcher/02-b"
Scene = Callable[[Scheduler, dict[str, FakeSlot]], Coroutine[Any, Any, None]]


def play(scene: Scene, slots: dict[str, FakeSlot] | None = None, config: SchedulerConfig = CONFIG, **caps: int) -> None:
    """Run a scene in a furnished office; afterwards journal, ledger and book agree and no slot was over-full."""
    slots = slots if slots is not None else {"s": FakeSlot()}

    async def main(directory: Path) -> None:
        async with Office(directory / "s.db", slots, config) as scheduler:
            await furnish(scheduler, slots, **caps)
            await asyncio.wait_for(scene(scheduler, slots), 10)

    with scratch() as directory:
        asyncio.run(main(directory))
        assert audit(open_readonly(directory / "s.db")) == []
    assert all(slot.most <= 1000 for slot in slots.values())


def events(scheduler: Scheduler, kind: str) -> list[dict[str, Any]]:
    return [e.payload for e in scheduler.journal.events(kind=kind)]


def test_a_lease_reserves_its_worst_case_and_is_charged_what_it_used() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        slots["s"].behave = lambda _, lease: None
        key = await scheduler.submit(a_request("k", A, gpus=0.5, seconds=36))
        assert spent(scheduler, A) == (0, 10_000, 0, 18_000)
        await asyncio.sleep(0.01)
        await scheduler.cancel("k")
        result = await scheduler.wait(key, 5)
        assert result is not None
        assert (result.status, result.gpu_ms) == ("cancelled", 20)
        assert spent(scheduler, A) == spent(scheduler) == (12, 0, 20, 0)
        (ended,) = events(scheduler, "lease_ended")
        assert {k: ended[k] for k in ("lease_id", "account", "kind", "gpus", "slot", "gpu_ms", "usd", "status")} == {
            "lease_id": "r000001-1", "account": A, "kind": "pilot", "gpus": 0.5, "slot": "s", "gpu_ms": 20, "usd": 12,
            "status": "cancelled",
        }  # fmt: skip

    play(scene)


def test_refusals_come_at_once_with_numbers_and_leave_nothing_behind() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        before = scheduler.journal.head()
        for request, reason in (
            (a_request("k1", A, gpus=1.0, seconds=60), "over_budget"),
            (a_request("k2", A, gpus=2), "larger_than_any_slot"),
            (a_request("k3", A, seconds=-1), "malformed"),
            (a_request("k4", "campaign/nobody"), "unknown_account"),
        ):
            with pytest.raises(RefusedError) as caught:
                await scheduler.submit(request)
            assert caught.value.reason == reason
            if reason == "over_budget":
                assert caught.value.detail["dimension"] == "gpu_ms"
                assert (caught.value.detail["left"], caught.value.detail["asked"]) == (50_000, 60_000)
        with pytest.raises(RefusedError, match="no request"):
            await scheduler.wait("r000009", 1)
        with pytest.raises(RefusedError, match="no request"):
            await scheduler.cancel("none")
        assert scheduler.journal.head() == before
        assert (await scheduler.status())["queue_length"] == 0
        assert not slots["s"].started

    play(scene, gpu_ms=50_000)


def test_twenty_equal_submits_are_one_lease_with_one_charge() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        results = await asyncio.gather(*(scheduler.run(a_request("k", A)) for _ in range(20)))
        assert len({r.lease_id for r in results}) == 1
        assert slots["s"].started == ["r000001-1"]
        assert await scheduler.run(a_request("k", A)) == results[0]
        assert spent(scheduler)[2] == 50
        others = [a_request("k", B), a_request("k", A, gpus=0.25), a_request("k", A, seconds=7.5)]
        others += [
            replace(a_request("k", A), **change) for change in ({"kind": "full"}, {"label": "x"}, {"memory_bytes": 9})
        ]
        step = replace(a_request("k", A).job.steps[0], params={"seed": 99})
        others += [replace(a_request("k", A), job=Job((step,)))]
        for other in others:
            with pytest.raises(RefusedError, match="another request"):
                await scheduler.submit(other)
        moved = replace(a_request("k", A).job.steps[0], inputs={k: f"/elsewhere{v}" for k, v in step.inputs.items()})
        assert await scheduler.run(replace(a_request("k", A), job=Job((moved,)))) == results[0]

    play(scene)


def test_a_race_of_submits_never_passes_the_cap() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        answers = await asyncio.gather(
            *(scheduler.run(a_request(f"k{n}", A, gpus=0.5, seconds=1)) for n in range(30)), return_exceptions=True
        )
        done = [a for a in answers if isinstance(a, LeaseResult)]
        refused = [a for a in answers if isinstance(a, RefusedError)]
        assert (len(done), len(refused)) == (7, 23)
        assert spent(scheduler, A)[2:] == (7 * 50, 0)

    play(scene, gpu_ms=3_900)


def test_a_slot_that_says_it_used_more_than_reserved_charges_the_reserved_only() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        slots["s"].behave = lambda _, lease: a_result(lease, used_ms=99_000)
        result = await scheduler.run(a_request("k", A, gpus=1.0, seconds=1))
        assert result.gpu_ms == 1000
        assert spent(scheduler, A)[2:] == (1000, 0)
        assert len(events(scheduler, "overrun")) == 1

    play(scene)


def test_a_lost_lease_is_tried_three_times_then_ends_lost_and_costs_nothing() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        slots["s"].behave = lambda _, lease: a_result(lease, "lost", 500)
        result = await scheduler.run(a_request("k", A))
        assert (result.status, result.gpu_ms) == ("lost", 0)
        assert slots["s"].started == ["r000001-1", "r000001-2", "r000001-3"]
        assert spent(scheduler) == (0, 0, 0, 0)
        assert len(events(scheduler, "lease_lost")) == 2
        assert len(events(scheduler, "released")) == len(events(scheduler, "lease_ended")) == 1

    play(scene)


def broken(slot: FakeSlot, lease: Lease) -> BaseException | LeaseResult:
    return ConnectionError("gone") if len(slot.started) < 3 else a_result(lease)


def strange(slot: FakeSlot, lease: Lease) -> LeaseResult:
    return (
        LeaseResult("another", "done", (), 1, 0, 0, "s", "", "", "A", "") if len(slot.started) < 3 else a_result(lease)
    )


def cancelled_call(slot: FakeSlot, lease: Lease) -> BaseException | LeaseResult:
    return asyncio.CancelledError() if len(slot.started) < 3 else a_result(lease)


@pytest.mark.parametrize("behave", [broken, strange, cancelled_call])
def test_a_slot_that_fails_or_answers_nonsense_is_asked_again_and_charged_once(behave: Any) -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        result = await scheduler.run(a_request("k", A))
        assert (result.status, result.lease_id) == ("done", "r000001-3")
        assert spent(scheduler)[2:] == (50, 0)

    play(scene, {"s": FakeSlot(behave=behave)})


def test_a_slot_that_never_answers_counts_as_lost_after_the_grace() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        result = await scheduler.run(a_request("k", A, seconds=0.01))
        assert result.status == "lost"
        assert len(slots["s"].started) == 3

    play(scene, {"s": FakeSlot(behave=lambda _, lease: None)}, replace(CONFIG, grace_s=0.1))


def test_a_failing_slot_rests_and_the_other_takes_its_work() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        results = await asyncio.gather(*(scheduler.run(a_request(f"k{n}", A, gpus=1.0)) for n in range(6)))
        assert all(r.status == "done" for r in results)

    slots = {"bad": FakeSlot(0.0, lambda _, lease: OSError("broken")), "good": FakeSlot()}
    play(scene, slots, replace(CONFIG, rest_s=0.5))  # long against the work of the good one, on a loaded machine too


def test_a_waiting_request_is_cancelled_at_once_and_for_free() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        slots["s"].behave = lambda _, lease: None
        await scheduler.submit(a_request("k1", A, gpus=1.0))
        waiting = await scheduler.submit(a_request("k2", A, gpus=1.0))
        for _ in range(2):
            assert await scheduler.cancel("k2") == "cancelled"
        result = await scheduler.wait(waiting, 0)
        assert result is not None
        assert (result.status, result.gpu_ms) == ("cancelled", 0)
        await asyncio.sleep(0.01)
        assert await scheduler.cancel("k1") == "running"
        assert (await scheduler.run(a_request("k1", A, gpus=1.0))).status == "cancelled"
        assert await scheduler.cancel("k1") == "cancelled"
        assert spent(scheduler) == (23, 0, 40, 0)

    play(scene)


def test_a_lease_that_is_lost_while_it_is_being_cancelled_is_not_tried_again() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        request_id = await scheduler.submit(a_request("k", A))
        await asyncio.sleep(0.005)
        await scheduler.cancel("k")
        result = await scheduler.wait(request_id, 5)
        assert result is not None
        assert result.status == "cancelled"
        assert (slots["s"].started, spent(scheduler)) == (["r000001-1"], (0, 0, 0, 0))

    play(scene, {"s": FakeSlot(0.3, lambda _, lease: a_result(lease, "lost"))})


def test_wait_gives_nothing_before_the_end_and_the_result_after_it() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        request_id = await scheduler.submit(a_request("k", A))
        assert await scheduler.wait(request_id, 0.001) is None
        assert await scheduler.wait(request_id, 5) == await scheduler.wait(request_id, 0)

    play(scene, {"s": FakeSlot(0.2)})


def test_a_flood_of_one_researcher_does_not_hold_up_another() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        flood = [await scheduler.submit(a_request(f"f{n}", A, gpus=1.0, seconds=2)) for n in range(20)]
        late = [await scheduler.submit(a_request(f"b{n}", B, gpus=1.0, seconds=2)) for n in range(5)]
        for request_id in (*flood, *late):
            assert await scheduler.wait(request_id, 5)
        order = [e["account"] for e in events(scheduler, "lease_granted")]
        assert max(n for n, account in enumerate(order) if account == B) <= 11

    play(scene, {"s": FakeSlot(0.002)})


def test_nothing_starves_under_a_stream_of_small_pilots() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        for n in range(10):
            await scheduler.submit(a_request(f"x{n}", B, gpus=0.3))
        large = asyncio.create_task(scheduler.run(a_request("large", A, kind="full", gpus=1.0)))
        for n in range(400):
            await asyncio.sleep(0.001)
            await scheduler.submit(a_request(f"s{n}", B, gpus=0.3))
            if large.done():
                break
        assert large.done()
        assert (await scheduler.status())["queue_length"] > 0

    play(scene)


def test_several_leases_share_a_slot_up_to_its_whole() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        await asyncio.gather(*(scheduler.run(a_request(f"k{n}", A, gpus=0.25)) for n in range(8)))
        assert slots["s"].most == 1000

    play(scene, {"s": FakeSlot(0.02)})


@given(st.lists(st.tuples(st.integers(50, 1000), st.sampled_from([A, B])), min_size=1, max_size=12), st.integers(1, 3))
@settings(deadline=None, max_examples=12)
def test_fractions_never_sum_above_one_on_any_slot(leases: list[tuple[int, str]], count: int) -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        work = (scheduler.run(a_request(f"k{n}", who, gpus=g / 1000)) for n, (g, who) in enumerate(leases))
        assert all(r.status == "done" for r in await asyncio.gather(*work))

    play(scene, {f"s{n}": FakeSlot(0.001) for n in range(count)})


def test_a_lease_gets_its_share_of_the_threads_and_at_least_one() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        for gpus, threads in ((1.0, 4), (0.74, 2), (0.5, 2), (0.3, 1), (0.05, 1)):
            result = await scheduler.run(a_request(f"k{gpus}", A, gpus=gpus))
            assert slots["s"].leases[result.lease_id].threads == threads

    play(scene)


def test_answers_and_wall_time_are_spent_once_per_key() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        for n in (1, 1, 2, 2):
            amounts = Amounts(answers=1, wall_ms=10 * n)
            assert (await scheduler.spend(f"e{n}", A, amounts)).answers == 1
        with pytest.raises(RefusedError) as caught:
            await scheduler.spend("e3", A, Amounts(answers=1))
        assert caught.value.detail["dimension"] == "answers"
        assert (await scheduler.balance(A)).spent == Amounts(wall_ms=30, answers=2)
        await scheduler.reserve("t", B, Amounts(usd=50), holder="gateway")
        assert (await scheduler.settle("t", Amounts(usd=20))).usd == 20
        await scheduler.reserve("u", B, Amounts(usd=50), holder="gateway")
        await scheduler.reserve("v", B, Amounts(usd=5))
        assert await scheduler.release_holder("gateway") == ["hold/u"]
        assert (await scheduler.release("v")).usd == 5
        assert spent(scheduler, B)[:2] == (20, 0)

    play(scene, answers=2)


def test_opening_an_account_is_idempotent_by_key() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        for _ in range(2):
            opened = await scheduler.open_account("new", f"{A}/gpu", A, Caps(usd=7))
            assert opened.caps.usd == 7
        for name, parent, caps in (
            (f"{A}/gpu", A, Caps(usd=8)),
            (f"{A}/gpu", A, Caps()),
            (f"{A}/other", A, Caps(usd=7)),
        ):
            with pytest.raises(RefusedError, match="another request"):
                await scheduler.open_account("new", name, parent, caps)

    play(scene)


def test_one_holder_cannot_fill_the_queue_without_end() -> None:
    async def main(directory: Path) -> None:
        async with Office(directory / "s.db", {}, replace(CONFIG, queue_limit=3)) as scheduler:
            await furnish(scheduler, {})
            for n in range(3):
                await scheduler.submit(a_request(f"k{n}", A))
            with pytest.raises(RefusedError) as caught:
                await scheduler.submit(a_request("k3", A))
            assert (caught.value.reason, caught.value.detail) == ("queue_full", {"waiting": 3, "limit": 3})
            await scheduler.submit(a_request("k4", B))

    with scratch() as directory:
        asyncio.run(main(directory))


def test_status_shows_queue_leases_slots_totals_and_accounts() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        slots["s"].behave = lambda _, lease: None
        await scheduler.retire_slot("t")
        await scheduler.submit(a_request("k1", A, gpus=0.75, label="first"))
        await scheduler.submit(a_request("k2", B, gpus=0.5))
        await asyncio.sleep(0.005)
        status = await scheduler.status()
        (running,), (waiting,) = status["running"], status["waiting"]
        assert (running["label"], running["slot"], running["gpus"], running["threads"]) == ("first", "s", 0.75, 3)
        assert (waiting["account"], waiting["kind"], status["queue_length"]) == (B, "pilot", 1)
        assert waiting["age_seconds"] >= 0
        assert [(s["name"], s["state"], s["used"]) for s in status["slots"]] == [
            ("s", "open", 0.75),
            ("t", "retired", 0),
        ]
        assert status["totals"] == {"usd": 0, "gpu_ms": 0}
        assert status["accounts"][A]["reserved"]["gpu_ms"] == 750
        assert status["holders"][A] == 750

    play(scene, {"s": FakeSlot(), "t": FakeSlot()})


def test_a_slot_registered_late_takes_what_waits() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        request_id = await scheduler.submit(a_request("k", A))
        assert await scheduler.wait(request_id, 0.03) is None
        slots["new"] = FakeSlot()
        await scheduler.register_slot(a_slot_info("new"), "new")
        assert await scheduler.wait(request_id, 5)
        await scheduler.register_slot(a_slot_info("new"), "new")
        assert len(events(scheduler, "slot_registered")) == 1

    play(scene, {})


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_wall_clock_ends_no_lease_and_makes_no_request_older(wall: WallClock, step: int) -> None:
    async def main(directory: Path) -> None:
        slots = {"s": FakeSlot(0.3)}
        async with Office(directory / "s.db", slots) as scheduler:
            await furnish(scheduler, slots)
            ids = [await scheduler.submit(a_request(f"k{n}", A, gpus=1.0, seconds=60)) for n in range(2)]
            wall.step(step)
            status = await scheduler.status()
            (running,), (waiting,) = status["running"], status["waiting"]
            assert 0 <= running["age_seconds"] < 30
            assert 30 < running["seconds_left"] <= 60
            assert 0 <= waiting["age_seconds"] < 30
            results = [await scheduler.wait(request_id, 10) for request_id in ids]
            assert [r and r.status for r in results] == ["done", "done"]

    with scratch() as directory:
        asyncio.run(main(directory))


@pytest.mark.parametrize("error", [StorageError("no room"), ClosedError("taken down")])
def test_a_slot_without_room_or_taken_down_burns_no_attempt_and_nobody_pays(error: AarError) -> None:
    left = 6

    def behave(_: FakeSlot, lease: Lease) -> LeaseResult | BaseException:
        nonlocal left
        left -= 1
        return error if left >= 0 else a_result(lease)

    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        result = await scheduler.run(a_request("k", A))
        assert result.status == "done"
        entry = scheduler.book.by_key("k")
        assert entry is not None
        assert (entry.attempt, scheduler.book.excused(entry.request_id)) == (7, 6)
        assert len(scheduler.journal.events(kind="lease_lost")) == 6

    play(scene, {"s": FakeSlot(behave=behave)})


def test_excuses_end_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that fills the disk whenever it runs is not run for nothing without end."""
    monkeypatch.setattr(module, "MOST_EXCUSED", 2)

    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        assert (await scheduler.run(a_request("k", A))).status == "lost"
        assert spent(scheduler) == (0, 0, 0, 0)

    play(scene, {"s": FakeSlot(behave=lambda *_: StorageError("no room"))})


def test_a_paused_scheduler_takes_requests_and_grants_nothing_until_it_goes_on() -> None:
    async def scene(scheduler: Scheduler, slots: dict[str, FakeSlot]) -> None:
        await scheduler.pause("no room")
        await scheduler.submit(a_request("k", A))
        await asyncio.sleep(0.1)
        status = await scheduler.status()
        assert (status["paused"], status["queue_length"]) == ("no room", 1)
        assert slots["s"].started == []
        await scheduler.go_on()
        assert (await scheduler.run(a_request("k", A))).status == "done"

    play(scene)


def test_a_closed_scheduler_grants_nothing_and_notes_no_loss_of_slots_that_end() -> None:
    async def main(directory: Path) -> None:
        slots = {"s": FakeSlot(30.0)}
        office = Office(directory / "s.db", slots)
        async with office as scheduler:
            await furnish(scheduler, slots)
            await scheduler.submit(a_request("k1", A, gpus=1.0))
            await scheduler.submit(a_request("k2", A, gpus=1.0))
            await asyncio.sleep(0.02)
            await scheduler.close()
            slots["s"].behave = lambda *_: OSError("gone")
            await asyncio.sleep(0.1)
            scheduler.grant_leases()
            states = [e and (e.state, e.attempt) for e in map(scheduler.book.by_key, ("k1", "k2"))]
            assert states == [("running", 1), ("queued", 1)]
            assert scheduler.journal.events(kind="lease_lost") == []
        async with Office(directory / "s.db", {"s": FakeSlot()}) as scheduler:
            results = [await scheduler.run(a_request(key, A, gpus=1.0)) for key in ("k1", "k2")]
            assert [result.status for result in results] == ["done", "done"]
        assert audit(open_readonly(directory / "s.db")) == []

    with scratch() as directory:
        asyncio.run(main(directory))


@pytest.mark.parametrize("known", [True, False])
def test_a_lease_on_a_slot_that_no_longer_exists_goes_to_another(known: bool) -> None:
    async def main(directory: Path) -> None:
        office = Office(directory / "s.db", {"old": FakeSlot(30.0)})
        async with office as scheduler:
            await furnish(scheduler, office.slots)
            await scheduler.submit(a_request("k", A))
            await asyncio.sleep(0.02)
            if not known:
                with scheduler.store.transaction() as db:
                    db.execute("DELETE FROM slots")
        hung = FakeSlot(3600.0)
        async with Office(directory / "s.db", {"old": hung, "new": FakeSlot()}) as scheduler:
            await scheduler.register_slot(a_slot_info("new"), "new")
            if known:
                await scheduler.retire_slot("old", gone=True)
            result = await asyncio.wait_for(scheduler.run(a_request("k", A)), 10)
            assert (result.status, result.slot) == ("done", "new")
            assert scheduler.book.excused("r000001") == 1
        assert audit(open_readonly(directory / "s.db")) == []

    with scratch() as directory:
        asyncio.run(main(directory))
