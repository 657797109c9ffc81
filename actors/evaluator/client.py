"""The way to a campaign's evaluator. Answers and records are plain data; nothing of it is ever a label.

Imports nothing that the evaluator needs: many small processes hold a client.
"""

from __future__ import annotations

from typing import Any

from cluster.names import actor_name
from cluster.remote import Caller, Remote


class EvaluatorClient:
    """The evaluator's methods, typed; see `actors.evaluator.evaluator` for what each promises."""

    def __init__(self, actor: Caller) -> None:
        self._actor = actor

    @classmethod
    def of(cls, campaign: str, patience_s: float = 120.0) -> EvaluatorClient:
        """The client of a campaign's evaluator; a call waits `patience_s` for an actor that restarts."""
        return cls(Remote(actor_name(campaign, "evaluator"), patience_s))

    async def prepare(self) -> dict[str, Any]:
        """Make the task, teachers, ceilings and baselines."""
        return await self._actor.call("prepare")  # type: ignore[no-any-return]

    async def submit(self, key: str, researcher: str, snapshot: str, name: str, tier: str) -> dict[str, Any]:
        """Score a snapshot on `dev` or `board` and wait for the answer."""
        return await self._actor.call("submit", key, researcher, snapshot, name, tier)  # type: ignore[no-any-return]

    async def seal(self) -> dict[str, Any]:
        """Score finalists and baselines on sealed items, once."""
        return await self._actor.call("seal")  # type: ignore[no-any-return]

    async def score(self, key: str, snapshot: str, name: str, tier: str, domain: str) -> dict[str, Any]:
        """The record of a method outside of a campaign."""
        return await self._actor.call("score", key, snapshot, name, tier, domain)  # type: ignore[no-any-return]

    async def replay(self, snapshot: str, name: str, tier: str, domain: str) -> dict[str, Any]:
        """The figures of a counted run, made again."""
        return await self._actor.call("replay", snapshot, name, tier, domain)  # type: ignore[no-any-return]

    async def audit(self, snapshot: str, name: str, domain: str) -> dict[str, Any]:
        """The audits of a method."""
        return await self._actor.call("audit", snapshot, name, domain)  # type: ignore[no-any-return]

    async def finalists(self) -> list[dict[str, Any]]:
        """Who is frozen for SEAL."""
        return await self._actor.call("finalists")  # type: ignore[no-any-return]

    async def leaderboard(self) -> list[dict[str, Any]]:
        """Rows of the board."""
        return await self._actor.call("leaderboard")  # type: ignore[no-any-return]

    async def record_summaries(self, record_ids: list[str]) -> list[dict[str, Any]]:
        """The public side of these records; those that do not exist are left out."""
        return await self._actor.call("record_summaries", record_ids)  # type: ignore[no-any-return]

    async def record(self, record_id: str) -> dict[str, Any] | None:
        """The public side of one record."""
        return await self._actor.call("record", record_id)  # type: ignore[no-any-return]

    async def records(self) -> list[dict[str, Any]]:
        """The public side of all records."""
        return await self._actor.call("records")  # type: ignore[no-any-return]

    async def status(self) -> dict[str, Any]:
        """Progress, wear and board."""
        return await self._actor.call("status")  # type: ignore[no-any-return]
