"""The scheduler's actor: a thin shell. State is in `runs/<campaign>/scheduler.db`; memory is a cache of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.scheduler.admission import parse_amounts, parse_caps, parse_request
from actors.scheduler.scheduler import Scheduler, SchedulerConfig
from cluster.config import validate
from cluster.money import usd_from_decimal
from cluster.names import RunPaths
from cluster.remote import Remote
from cluster.store import Store
from gpu_pool.leases import SlotInfo


def _slot(actor: str) -> Remote:
    return Remote(actor, awaits_room=False)


@ray.remote(max_restarts=-1, max_task_retries=-1)
class SchedulerActor:
    """The office of budgets and GPUs; every answer is plain data."""

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

    async def submit(self, request: dict[str, Any]) -> dict[str, Any]:
        """`{request_id}` of a queued request."""
        return {"request_id": await (await self._ready()).submit(parse_request(request))}

    async def wait(self, request_id: str, timeout_s: float) -> dict[str, Any] | None:
        """The lease's result, or `None` when it has not ended in time."""
        result = await (await self._ready()).wait(request_id, timeout_s)
        return None if result is None else result.to_dict()

    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Submit and wait for the end."""
        return (await (await self._ready()).run(parse_request(request))).to_dict()

    async def cancel(self, key: str) -> dict[str, Any]:
        """Cancel the request with this key."""
        return await (await self._ready()).cancel(key)

    async def register_slot(self, info: dict[str, Any], actor_name: str) -> None:
        """Take a slot into service."""
        await (await self._ready()).register_slot(SlotInfo(**info), actor_name)

    async def retire_slot(self, name: str, gone: bool = False) -> None:
        """Give a slot no more leases; `gone`: there is none."""
        await (await self._ready()).retire_slot(name, gone)

    async def pause(self, reason: str) -> None:
        """Grant no leases for now."""
        await (await self._ready()).pause(reason)

    async def go_on(self) -> None:
        """Grant leases again."""
        await (await self._ready()).go_on()

    async def close(self) -> None:
        """Grant and note nothing more: the slots are about to be taken down."""
        await self._plain.close()

    async def open_account(self, key: str, account: str, parent: str | None, caps: dict[str, Any]) -> dict[str, Any]:
        """Open an account; its balance."""
        return await (await self._ready()).open_account(key, account, parent, parse_caps(caps))

    async def balance(self, account: str) -> dict[str, Any]:
        """Caps, spent, reserved and left of an account."""
        return await (await self._ready()).balance(account)

    async def spend(self, key: str, account: str, amounts: dict[str, int], note: str = "") -> dict[str, Any]:
        """Charge at once."""
        return await (await self._ready()).spend(key, account, parse_amounts(amounts), note)

    async def charge(self, key: str, account: str, amounts: dict[str, int], note: str = "") -> dict[str, Any]:
        """Charge at once what is left of the amounts."""
        return await (await self._ready()).charge(key, account, parse_amounts(amounts), note)

    async def reserve(
        self, key: str, account: str, amounts: dict[str, int], note: str = "", holder: str = "", whose: str = ""
    ) -> dict[str, Any]:
        """Set a worst case aside; the balance of `whose` account afterwards."""
        return await (await self._ready()).reserve(key, account, parse_amounts(amounts), note, holder, whose)

    async def settle(self, key: str, actual: dict[str, int], note: str = "") -> dict[str, Any]:
        """Charge the actual of a reservation, free the rest."""
        return await (await self._ready()).settle(key, parse_amounts(actual), note)

    async def release(self, key: str, note: str = "") -> dict[str, Any]:
        """Free a reservation."""
        return await (await self._ready()).release(key, note)

    async def release_holder(self, holder: str) -> list[str]:
        """Free all that a dead holder holds."""
        return await (await self._ready()).release_holder(holder)

    async def status(self) -> dict[str, Any]:
        """Queue, leases, slots, totals, accounts."""
        return await (await self._ready()).status()
