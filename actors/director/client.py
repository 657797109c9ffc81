"""The way to a campaign's director, for drivers and pages."""

from __future__ import annotations

from typing import Any

from cluster.names import actor_name
from cluster.remote import Caller, Remote


class DirectorClient:
    """The director's methods, typed."""

    def __init__(self, actor: Caller) -> None:
        self._actor = actor

    @classmethod
    def of(cls, campaign: str) -> DirectorClient:
        """The client of a campaign's director."""
        return cls(Remote(actor_name(campaign, "director")))

    async def run(self) -> dict[str, Any]:
        """Carry the campaign to its end: `{phase}`."""
        return await self._actor.call("run")  # type: ignore[no-any-return]

    async def status(self) -> dict[str, Any]:
        """Everything that a live page shows."""
        return await self._actor.call("status")  # type: ignore[no-any-return]
