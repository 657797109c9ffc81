"""The way to a slot."""

from __future__ import annotations

from typing import Any

from cluster.remote import Caller, Remote
from gpu_pool.leases import Lease, LeaseResult, SlotInfo
from gpu_pool.serving.state import ServerState


class SlotClient:
    """A slot's methods, typed."""

    def __init__(self, actor: Caller) -> None:
        self._actor = actor

    @classmethod
    def of(cls, actor: str, patience_s: float = 120.0) -> SlotClient:
        """The client of the slot with this actor name; a call waits `patience_s` for an actor that restarts."""
        return cls(Remote(actor, patience_s))

    async def info(self) -> SlotInfo:
        """What the scheduler needs to know of the slot, as soon as its sandbox is graded and warm."""
        return await self._actor.call("info")  # type: ignore[no-any-return]

    async def run(self, lease: Lease) -> LeaseResult:
        """Carry a lease out, idempotent by its id."""
        return await self._actor.call("run", lease)  # type: ignore[no-any-return]

    async def cancel(self, lease_id: str) -> None:
        """End a running lease soon; its `run` then answers "cancelled" with what was used."""
        await self._actor.call("cancel", lease_id)

    async def serving(self, lease_id: str) -> ServerState | None:
        """The state of a lease's model server, with its token; `None` when there is none."""
        return await self._actor.call("serving", lease_id)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Kill every sandbox and remove what crossed into them."""
        await self._actor.call("close")

    async def status(self) -> dict[str, Any]:
        """What runs here now."""
        return await self._actor.call("status")  # type: ignore[no-any-return]
