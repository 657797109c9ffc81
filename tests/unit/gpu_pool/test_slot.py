"""The slot's promises with workers that run no sandbox."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from cluster.storage import Place, StorageError
from gpu_pool.leases import ClosedError, Job, Lease, LeaseRequest, LeaseResult, Step, StepResult, StepStatus
from gpu_pool.sandbox_worker import LaneError, SandboxWorker
from gpu_pool.serving.step import seconds_since_first_start
from gpu_pool.slot import Role, Slot, SlotSpec, uid_of
from tests.unit.wall_clock import STEPS, WallClock


class FakeLane(SandboxWorker):
    """Records what it ran; `behave` decides how a step ends."""

    made: list[FakeLane]

    def __init__(self, role: Role, behave: Callable[[Step], StepStatus], delay: float = 0.0) -> None:
        self.role, self.behave, self.delay = role, behave, delay
        self.ran: list[str] = []
        self.dirty = False
        self.reusable = False
        self.up = False
        self.fail_start = False

    @property
    def alive(self) -> bool:
        return self.up

    async def start(self) -> None:
        if self.fail_start:
            raise LaneError("no")
        self.up = True

    async def run(
        self, step: Step, inputs: dict[str, Path], seconds: float, threads: int, into: Path, progress: Any
    ) -> StepResult:
        self.ran.append(step.name)
        await asyncio.sleep(min(self.delay, seconds))
        status = self.behave(step)
        if status == "crashed":
            self.up = False
        outputs = {name: str(into / name) for name in step.outputs} if status == "ok" else {}
        return StepResult(step.name, status, "", self.delay, 1.0, outputs, "")

    def abort(self) -> None:
        pass

    async def close(self) -> None:
        self.up = False


def make_slot(
    tmp: Path,
    behave: Callable[[Step], StepStatus] = lambda _: "ok",
    reuse: Literal["never", "wiped"] = "never",
    delay: float = 0.0,
) -> tuple[Slot, list[FakeLane]]:
    workers: list[FakeLane] = []

    def make(role: Role) -> SandboxWorker:
        workers.append(FakeLane(role, behave, delay))
        workers[-1].reusable = role == "method" and reuse == "wiped"
        return workers[-1]

    spec = SlotSpec("slot-0", 1, 1 << 30, reuse, tmp, tmp, 0, (), "logical", "A", "probe")
    return Slot(spec, make), workers


def lease(
    tmp: Path, *steps: Step, name: str = "l1", seconds: float = 10, stop: bool = True, gpus: float = 1.0
) -> Lease:
    request = LeaseRequest(name, "campaign/x", "pilot", gpus, seconds, Job(steps, stop))
    return Lease(name, request, "slot-0", 1, str(tmp / name))


TRAIN = Step("train", "method", {}, {}, {"student.safetensors": 10}, 5)
PREDICT = Step(
    "predict", "predict", {"student.safetensors": "@train/student.safetensors"}, {}, {"probs.safetensors": 10}, 5
)


def test_methods_students_and_truth_never_share_a_lane(tmp_path: Path) -> None:
    slot, workers = make_slot(tmp_path)
    teacher = Step("teacher", "teacher", {}, {}, {"student.safetensors": 10}, 5)
    result = asyncio.run(slot.run(lease(tmp_path, TRAIN, PREDICT, teacher)))
    assert [step.status for step in result.steps] == ["ok", "ok", "ok"]
    assert {worker.role: worker.ran for worker in workers if worker.ran} == {
        "method": ["train"], "inference": ["predict"], "library": ["teacher"],
    }  # fmt: skip


def test_no_two_lanes_of_a_machine_have_a_uid_in_common() -> None:
    roles: tuple[Role, ...] = ("method", "inference", "library")
    uids = [uid_of(role, index) for role in roles for index in range(200)]
    assert len(set(uids)) == len(uids)
    assert max(uids) < 65001  # where the shell sandboxes of researchers begin


def test_a_step_whose_input_is_missing_is_skipped_and_others_go_on(tmp_path: Path) -> None:
    second = Step("train-2", "method", {}, {}, {}, 5)
    slot, _ = make_slot(tmp_path, lambda step: "error" if step.name == "train" else "ok")
    result = asyncio.run(slot.run(lease(tmp_path, TRAIN, PREDICT, second, stop=False)))
    assert [step.status for step in result.steps] == ["error", "skipped", "ok"]


def test_stop_on_error_skips_the_rest(tmp_path: Path) -> None:
    slot, _ = make_slot(tmp_path, lambda step: "error" if step.name == "train" else "ok")
    result = asyncio.run(slot.run(lease(tmp_path, TRAIN, Step("more", "method", {}, {}, {}, 5))))
    assert [step.status for step in result.steps] == ["error", "skipped"]


def test_the_same_lease_is_carried_out_once(tmp_path: Path) -> None:
    slot, workers = make_slot(tmp_path, delay=0.05)
    one = lease(tmp_path, TRAIN)

    async def twice() -> list[LeaseResult]:
        both = await asyncio.gather(slot.run(one), slot.run(one))
        return [*both, await slot.run(one)]

    results = asyncio.run(twice())
    assert results[0] == results[1] == results[2]
    assert sum(len(worker.ran) for worker in workers) == 1


def test_a_finished_lease_is_answered_by_another_slot_process(tmp_path: Path) -> None:
    first, _ = make_slot(tmp_path)
    one = lease(tmp_path, TRAIN)
    result = asyncio.run(first.run(one))
    second, workers = make_slot(tmp_path)
    assert asyncio.run(second.run(one)) == result
    assert workers == []


def test_never_reuse_replaces_a_lane_that_ran_foreign_code(tmp_path: Path) -> None:
    slot, workers = make_slot(tmp_path, reuse="never")

    async def two() -> None:
        await slot.run(lease(tmp_path, TRAIN, name="a"))
        await slot.run(lease(tmp_path, TRAIN, name="b"))

    asyncio.run(two())
    assert all(len(worker.ran) <= 1 for worker in workers)


def test_a_lane_that_passes_something_on_is_not_used_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(_worker: SandboxWorker) -> dict[str, bool]:
        return {"handover_sysv_memory": False, "handover_niceness": True}

    monkeypatch.setattr("gpu_pool.slot.check_handover", found)
    slot, workers = make_slot(tmp_path, reuse="wiped")

    async def go() -> dict[str, bool]:
        rows = await slot.check_reuse()
        await asyncio.sleep(0)
        return rows

    assert not all(asyncio.run(go()).values())
    assert not workers[0].up


def test_wiped_reuse_keeps_the_lane(tmp_path: Path) -> None:
    slot, workers = make_slot(tmp_path, reuse="wiped")

    async def two() -> None:
        await slot.run(lease(tmp_path, TRAIN, name="a"))
        await slot.run(lease(tmp_path, TRAIN, name="b"))

    asyncio.run(two())
    assert [worker.ran for worker in workers if worker.ran] == [["train", "train"]]


def test_a_crashed_lane_is_replaced_within_the_lease(tmp_path: Path) -> None:
    again = Step("again", "method", {}, {}, {}, 5)
    slot, workers = make_slot(tmp_path, lambda step: "crashed" if step.name == "train" else "ok")
    result = asyncio.run(slot.run(lease(tmp_path, TRAIN, again, stop=False)))
    assert [step.status for step in result.steps] == ["crashed", "ok"]
    assert all(worker.role == "method" for worker in workers if worker.ran)


def test_gpu_time_never_exceeds_the_reservation(tmp_path: Path) -> None:
    slot, _ = make_slot(tmp_path, delay=0.4)
    steps = [Step(f"s{n}", "method", {}, {}, {}, 5) for n in range(3)]
    result = asyncio.run(slot.run(lease(tmp_path, *steps, seconds=0.5, gpus=0.5, stop=False)))
    assert result.gpu_ms <= 250
    assert result.steps[-1].status == "timeout"
    assert result.status == "expired"


def test_a_cancelled_lease_ends_and_pays_for_what_it_used(tmp_path: Path) -> None:
    slot, _ = make_slot(tmp_path, delay=0.2)
    steps = [Step(f"s{n}", "method", {}, {}, {}, 5) for n in range(3)]
    one = lease(tmp_path, *steps)

    async def go() -> LeaseResult:
        running = asyncio.ensure_future(slot.run(one))
        while not slot.status()["running"] or slot.status()["running"][0]["step"] != "s0":
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        await slot.cancel(one.id)
        return await running

    result = asyncio.run(go())
    assert result.status == "cancelled"
    assert [step.status for step in result.steps][1:] == ["skipped", "skipped"]
    assert 0 < result.gpu_ms < 10_000


def test_a_lane_in_which_something_unforeseen_happened_is_not_used_again(tmp_path: Path) -> None:
    def explode(step: Step) -> StepStatus:
        if step.name == "train":
            raise OSError("the disk is gone")
        return "ok"

    slot, workers = make_slot(tmp_path, explode, reuse="wiped")

    async def go() -> None:
        with pytest.raises(OSError, match="disk is gone"):
            await slot.run(lease(tmp_path, TRAIN))
        broken = next(worker for worker in workers if worker.ran)
        assert not broken.up
        other = replace(TRAIN, name="other")
        await slot.run(lease(tmp_path, other, name="l2"))
        assert broken.ran == ["train"]

    asyncio.run(go())


def test_waiting_for_another_lease_in_the_trusted_worker_costs_nothing(tmp_path: Path) -> None:
    slot, _ = make_slot(tmp_path, delay=0.4)
    one = replace(PREDICT, inputs={})

    async def go() -> list[LeaseResult]:
        return await asyncio.gather(*(slot.run(lease(tmp_path, one, name=f"l{n}", gpus=0.5)) for n in range(3)))

    results = asyncio.run(go())
    assert all(result.step("predict").ok for result in results)
    assert all(result.gpu_ms < 0.5 * 400 * 1.5 for result in results)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_wall_clock_changes_no_charge_and_no_limit(tmp_path: Path, wall: WallClock, step: int) -> None:
    def behave(which: Step) -> StepStatus:
        if which.name == "train":
            wall.step(step)
        return "ok"

    slot, _ = make_slot(tmp_path, behave, delay=0.2)
    result = asyncio.run(slot.run(lease(tmp_path, TRAIN, PREDICT, seconds=60)))
    assert result.status == "done"
    assert [s.status for s in result.steps] == ["ok", "ok"]
    assert 400 <= result.gpu_ms < 30_000
    assert abs((result.ended_us - result.started_us) / 1000 - result.gpu_ms) <= 2


@pytest.mark.parametrize("step", STEPS)
def test_the_time_of_a_served_model_is_counted_across_a_step_and_not_across_a_reboot(
    tmp_path: Path, wall: WallClock, step: int
) -> None:
    assert seconds_since_first_start(tmp_path) == 0.0
    wall.step(step)
    time.sleep(0.01)
    assert 0.01 <= seconds_since_first_start(tmp_path) < 30
    (tmp_path / "began").write_text("another-boot 5", encoding="ascii")
    assert seconds_since_first_start(tmp_path) == 0.0
    (tmp_path / "began").write_text("1764000000000000", encoding="ascii")  # as an earlier version wrote it
    assert seconds_since_first_start(tmp_path) == 0.0


def test_a_lease_without_room_is_not_carried_out_and_one_that_lost_its_room_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the slot itself sees counts: a step that says that the disk is full is charged like any other."""
    faults: list[str] = []
    monkeypatch.setattr(Place, "fault", lambda self: faults[0] if faults else None)
    slot, workers = make_slot(tmp_path, lambda _: "error")
    faults.append("full")
    with pytest.raises(StorageError, match="full"):
        asyncio.run(slot.run(lease(tmp_path, TRAIN)))
    assert not any(worker.ran for worker in workers)
    faults.clear()
    assert asyncio.run(slot.run(lease(tmp_path, TRAIN, name="l2"))).steps[0].status == "error"

    def lose_room(_: Step) -> StepStatus:
        faults.append("full")
        return "error"

    slot, _ = make_slot(tmp_path, lose_room)
    with pytest.raises(StorageError, match="full"):
        asyncio.run(slot.run(lease(tmp_path, TRAIN, name="l3")))
    assert not (tmp_path / "l3").exists()
    faults.clear()
    slot, _ = make_slot(tmp_path)
    assert asyncio.run(slot.run(lease(tmp_path, TRAIN, name="l3"))).status == "done"


def test_a_result_that_cannot_be_written_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/x")

    slot, _ = make_slot(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("gpu_pool.slot._write_result", full)
        with pytest.raises(StorageError, match="No space"):
            asyncio.run(slot.run(lease(tmp_path, TRAIN)))
    assert asyncio.run(slot.run(lease(tmp_path, TRAIN))).status == "done"


def test_a_slot_that_is_taken_down_says_so_to_those_whom_it_leaves_and_begins_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        slot, workers = make_slot(tmp_path, delay=30)
        running = asyncio.create_task(slot.run(lease(tmp_path, TRAIN, seconds=60)))
        while not any(worker.ran for worker in workers):
            await asyncio.sleep(0.01)
        await slot.close()
        with pytest.raises(ClosedError):
            await running
        made = len(workers)
        with pytest.raises(ClosedError):
            await slot.run(lease(tmp_path, TRAIN, name="l2"))
        assert len(workers) == made

    asyncio.run(main())
