"""A researcher's account in the ledger: opened once, charged for wall time, asked for its balance."""

from __future__ import annotations

from typing import Any

from actors.researcher.tools.apis import SchedulerApi
from cluster.errors import RefusedError
from cluster.money import DIMENSIONS, Caps
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
        """`spent`, `reserved`, `caps`, `left`, and `exhausted`: dimensions spent for good, here or by the campaign.

        What others have merely reserved may come back, so that nothing `left` does not mean `exhausted`.
        """
        own = await self._scheduler.balance(self.name)
        campaign = await self._scheduler.balance(CAMPAIGN)
        gone = [d for d in DIMENSIONS if _spent(own, d) or _spent(campaign, d)]
        return {**own, "exhausted": gone}

    async def charge_wall(self, key: str, wall_ms: int) -> None:
        """Charge wall time; when it is more than what is left, what is left. Never raises `RefusedError`."""
        for amount, suffix in ((wall_ms, ""), (None, "/rest")):
            if amount is None:
                left = (await self._scheduler.balance(self.name))["left"].get("wall_ms")
                amount = min(wall_ms, left or 0)
            if amount <= 0:
                return
            try:
                await self._scheduler.spend(key + suffix, self.name, {"wall_ms": amount}, "wall time")
            except RefusedError:
                continue
            return


def _spent(balance: dict[str, Any], dimension: str) -> bool:
    cap = balance["caps"].get(dimension)
    return cap is not None and balance["spent"].get(dimension, 0) >= cap
