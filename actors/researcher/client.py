"""The way to a researcher, for the director."""

from __future__ import annotations

from typing import Any

from cluster.names import actor_name
from cluster.remote import Caller, Remote


class ResearcherClient:
    """A researcher's methods, typed."""

    def __init__(self, actor: Caller) -> None:
        self._actor = actor

    @classmethod
    def of(cls, campaign: str, researcher: str) -> ResearcherClient:
        """The client of one of a campaign's researchers."""
        return cls(Remote(actor_name(campaign, researcher)))

    async def run(self) -> dict[str, Any]:
        """Work to the end of budget, turns or orders; the summary."""
        return await self._actor.call("run")  # type: ignore[no-any-return]

    async def stop(self, reason: str = "the research phase is over") -> None:
        """End after the running call."""
        await self._actor.call("stop", reason)

    async def pause(self, reason: str) -> None:
        """Begin no step and count no time until `go_on`."""
        await self._actor.call("pause", reason)

    async def go_on(self) -> None:
        """The pause is over."""
        await self._actor.call("go_on")

    async def redirect(self, direction: str) -> None:
        """Go on from this direction, from the next turn on; the first one stays."""
        await self._actor.call("redirect", direction)

    async def status(self) -> dict[str, Any]:
        """State, turn, last action, counts and best score."""
        return await self._actor.call("status")  # type: ignore[no-any-return]

    async def head(self) -> dict[str, Any]:
        """The head of the researcher's journal: `{seq, hash}`."""
        return await self._actor.call("head")  # type: ignore[no-any-return]
