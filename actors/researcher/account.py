"""A researcher's account in the ledger: opened once, charged for wall time, asked for its balance."""

from __future__ import annotations

from typing import Any

from actors.researcher.tools.apis import SchedulerApi
from cluster.money import Caps
from cluster.names import CAMPAIGN, PARTS, researcher_account


class Account:
    """The account of `researcher` with its children, kept by `scheduler`."""

    def __init__(self, scheduler: SchedulerApi, researcher: str, caps: Caps) -> None:
        self._scheduler = scheduler
        self._caps = caps
        self._researcher = researcher
        self.name = researcher_account(researcher)
        self.most_wall_ms = caps.wall_ms
        """Wall time that it may use in all, milliseconds; `None` without a limit."""

    async def open(self) -> None:
        """Open the account and its children; the same again changes nothing."""
        no_caps = Caps().to_dict()
        await self._scheduler.open_account(f"open/{self.name}", self.name, CAMPAIGN, self._caps.to_dict())
        for part in PARTS:
            name = researcher_account(self._researcher, part)
            await self._scheduler.open_account(f"open/{name}", name, self.name, no_caps)

    async def balance(self) -> dict[str, Any]:
        """As `Ledger.balance`."""
        return await self._scheduler.balance(self.name)

    async def charge_wall(self, key: str, wall_ms: int) -> dict[str, Any]:
        """Charge wall time, or what is left of it when that is less; the balance afterwards."""
        return await self._scheduler.charge(key, self.name, {"wall_ms": wall_ms}, "wall time")
