"""A researcher's account in the ledger: opened once, charged for wall time, asked for its balance."""

from __future__ import annotations

from actors.scheduler.client import SchedulerClient
from cluster.money import Amounts, Balance, Caps
from cluster.names import CAMPAIGN, PARTS, researcher_account


class Account:
    """The account of `researcher` with its children, kept by `scheduler`."""

    def __init__(self, scheduler: SchedulerClient, researcher: str, caps: Caps, of_all: Caps) -> None:
        """`caps` of the researcher, and those `of_all` researchers together."""
        self._scheduler = scheduler
        self._caps = caps
        self._researcher = researcher
        self.name = researcher_account(researcher)
        self.most_wall_ms = caps.wall_ms
        """Wall time that it may use in all, milliseconds; `None` without a limit."""
        self.wall_is_shared = of_all.wall_ms is not None
        """Whether others use up the same wall time."""

    async def open(self) -> None:
        """Open the account and its children; the same again changes nothing."""
        await self._scheduler.open_account(f"open/{self.name}", self.name, CAMPAIGN, self._caps)
        for part in PARTS:
            name = researcher_account(self._researcher, part)
            await self._scheduler.open_account(f"open/{name}", name, self.name, Caps())

    async def balance(self) -> Balance:
        """The account as it stands."""
        return await self._scheduler.balance(self.name)

    async def charge_wall(self, key: str, wall_ms: int) -> None:
        """Charge wall time, or what is left of it when that is less."""
        await self._scheduler.charge(key, self.name, Amounts(wall_ms=wall_ms), "wall time")
