"""The way to a campaign's scheduler: budgets and GPUs. See `actors.scheduler.scheduler.Scheduler` for the promises.

Refusals are raised as `RefusedError`; a call that changes something may be made again with the same key.
"""

from __future__ import annotations

from typing import Any

from actors.scheduler.book import State
from cluster.money import Amounts, Balance, Caps
from cluster.names import actor_name
from cluster.remote import Caller, Remote
from gpu_pool.leases import LeaseRequest, LeaseResult, SlotInfo


class SchedulerClient:
    """The scheduler's methods, typed."""

    def __init__(self, actor: Caller) -> None:
        self._actor = actor

    @classmethod
    def of(cls, campaign: str, patience_s: float = 120.0) -> SchedulerClient:
        """The client of a campaign's scheduler; a call waits `patience_s` for an actor that restarts."""
        return cls(Remote(actor_name(campaign, "scheduler"), patience_s))

    async def submit(self, request: LeaseRequest) -> str:
        """Queue a request and reserve its worst case; its id."""
        return await self._actor.call("submit", request)  # type: ignore[no-any-return]

    async def wait(self, request_id: str, timeout_s: float) -> LeaseResult | None:
        """The lease's result, or `None` when it has not ended in time."""
        return await self._actor.call("wait", request_id, timeout_s)  # type: ignore[no-any-return]

    async def run(self, request: LeaseRequest) -> LeaseResult:
        """Submit and wait for the end."""
        return await self._actor.call("run", request)  # type: ignore[no-any-return]

    async def cancel(self, key: str) -> State:
        """Cancel the request with this key; the state that it is in now."""
        return await self._actor.call("cancel", key)  # type: ignore[no-any-return]

    async def register_slot(self, info: SlotInfo, actor_name: str) -> None:
        """Take a slot into service."""
        await self._actor.call("register_slot", info, actor_name)

    async def retire_slot(self, name: str, gone: bool = False) -> None:
        """Give a slot no more leases; `gone`: it does not exist any more."""
        await self._actor.call("retire_slot", name, gone)

    async def pause(self, reason: str) -> None:
        """Grant no leases for now."""
        await self._actor.call("pause", reason)

    async def go_on(self) -> None:
        """Grant leases again."""
        await self._actor.call("go_on")

    async def close(self) -> None:
        """Grant and note nothing more: the slots are about to be taken down."""
        await self._actor.call("close")

    async def open_account(self, key: str, account: str, parent: str | None, caps: Caps) -> Balance:
        """Open an account; its balance."""
        return await self._actor.call("open_account", key, account, parent, caps)  # type: ignore[no-any-return]

    async def balance(self, account: str) -> Balance:
        """An account as it stands."""
        return await self._actor.call("balance", account)  # type: ignore[no-any-return]

    async def spend(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """Charge at once; what was charged."""
        return await self._actor.call("spend", key, account, amounts, note)  # type: ignore[no-any-return]

    async def charge(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """Charge at once what is left of the amounts; what was charged."""
        return await self._actor.call("charge", key, account, amounts, note)  # type: ignore[no-any-return]

    async def reserve(self, key: str, account: str, amounts: Amounts, note: str = "", holder: str = "") -> None:
        """Set a worst case aside."""
        await self._actor.call("reserve", key, account, amounts, note, holder)

    async def settle(self, key: str, actual: Amounts, note: str = "") -> Amounts:
        """Charge the actual of a reservation and free the rest; what was charged."""
        return await self._actor.call("settle", key, actual, note)  # type: ignore[no-any-return]

    async def release(self, key: str, note: str = "") -> Amounts:
        """Free a reservation; what it held."""
        return await self._actor.call("release", key, note)  # type: ignore[no-any-return]

    async def release_holder(self, holder: str) -> list[str]:
        """Free all that a dead holder holds; the keys."""
        return await self._actor.call("release_holder", holder)  # type: ignore[no-any-return]

    async def status(self) -> dict[str, Any]:
        """Queue, leases, slots, totals, accounts; see `actors.scheduler.report`."""
        return await self._actor.call("status")  # type: ignore[no-any-return]
