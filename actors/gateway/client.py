"""The way to a campaign's gateway: calls to models."""

from __future__ import annotations

from typing import Any

from cluster.names import actor_name
from cluster.remote import Caller, Remote


class GatewayClient:
    """The gateway's methods, typed."""

    def __init__(self, actor: Caller) -> None:
        self._actor = actor

    @classmethod
    def of(cls, campaign: str) -> GatewayClient:
        """The client of a campaign's gateway."""
        return cls(Remote(actor_name(campaign, "gateway")))

    async def call(self, key: str, researcher: str, request: dict[str, Any]) -> dict[str, Any]:
        """As `ModelApi.call`."""
        return await self._actor.call("call", key, researcher, request)  # type: ignore[no-any-return]

    async def status(self) -> dict[str, Any]:
        """Calls, cache, server."""
        return await self._actor.call("status")  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Take no more calls; end the model's server, if the campaign started one."""
        await self._actor.call("close")
