"""The scheduler's actor: a thin shell. State is in `runs/<campaign>/scheduler.db`; memory is a cache of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.scheduler.book import State
from actors.scheduler.scheduler import Scheduler, SchedulerConfig
from cluster.config import validate
from cluster.money import Amounts, Balance, Caps, usd_from_decimal
from cluster.names import RunPaths
from cluster.remote import Remote
from cluster.store import Store
from gpu_pool.client import SlotClient
from gpu_pool.leases import LeaseRequest, LeaseResult, SlotInfo


def _slot(actor: str) -> SlotClient:
    return SlotClient(Remote(actor, awaits_room=False))


@ray.remote(max_restarts=-1, max_task_retries=-1)
class SchedulerActor:
    """Budgets and GPUs; callers use `SchedulerClient`, which says what each method does."""

    def __init__(self, run_dir: str, config: dict[str, Any]) -> None:
        """`config` is the campaign's configuration as plain data."""
        self._name = f"{Path(run_dir).name}/scheduler"
        paths = RunPaths(Path(run_dir))
        pool = validate(config).pool
        settings = SchedulerConfig(usd_from_decimal(pool.usd_per_gpu_hour), pool.memory_bytes)
        self._plain = Scheduler(Store(paths.scheduler_db), _slot, settings, paths.leases)

    def __repr__(self) -> str:
        return self._name

    async def _ready(self) -> Scheduler:
        """Start in the actor's own event loop, at the first call."""
        await self._plain.start()
        return self._plain

    async def submit(self, request: LeaseRequest) -> str:
        """As `SchedulerClient.submit`."""
        return await (await self._ready()).submit(request)

    async def wait(self, request_id: str, timeout_s: float) -> LeaseResult | None:
        """As `SchedulerClient.wait`."""
        return await (await self._ready()).wait(request_id, timeout_s)

    async def run(self, request: LeaseRequest) -> LeaseResult:
        """As `SchedulerClient.run`."""
        return await (await self._ready()).run(request)

    async def cancel(self, key: str) -> State:
        """As `SchedulerClient.cancel`."""
        return await (await self._ready()).cancel(key)

    async def register_slot(self, info: SlotInfo, actor_name: str) -> None:
        """As `SchedulerClient.register_slot`."""
        await (await self._ready()).register_slot(info, actor_name)

    async def retire_slot(self, name: str, gone: bool = False) -> None:
        """As `SchedulerClient.retire_slot`."""
        await (await self._ready()).retire_slot(name, gone)

    async def pause(self, reason: str) -> None:
        """As `SchedulerClient.pause`."""
        await (await self._ready()).pause(reason)

    async def go_on(self) -> None:
        """As `SchedulerClient.go_on`."""
        await (await self._ready()).go_on()

    async def close(self) -> None:
        """As `SchedulerClient.close`."""
        await self._plain.close()

    async def open_account(self, key: str, account: str, parent: str | None, caps: Caps) -> Balance:
        """As `SchedulerClient.open_account`."""
        return await (await self._ready()).open_account(key, account, parent, caps)

    async def balance(self, account: str) -> Balance:
        """As `SchedulerClient.balance`."""
        return await (await self._ready()).balance(account)

    async def spend(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """As `SchedulerClient.spend`."""
        return await (await self._ready()).spend(key, account, amounts, note)

    async def charge(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """As `SchedulerClient.charge`."""
        return await (await self._ready()).charge(key, account, amounts, note)

    async def reserve(self, key: str, account: str, amounts: Amounts, note: str = "", holder: str = "") -> None:
        """As `SchedulerClient.reserve`."""
        await (await self._ready()).reserve(key, account, amounts, note, holder)

    async def settle(self, key: str, actual: Amounts, note: str = "") -> Amounts:
        """As `SchedulerClient.settle`."""
        return await (await self._ready()).settle(key, actual, note)

    async def release(self, key: str, note: str = "") -> Amounts:
        """As `SchedulerClient.release`."""
        return await (await self._ready()).release(key, note)

    async def release_holder(self, holder: str) -> list[str]:
        """As `SchedulerClient.release_holder`."""
        return await (await self._ready()).release_holder(holder)

    async def status(self) -> dict[str, Any]:
        """As `SchedulerClient.status`."""
        return await (await self._ready()).status()
