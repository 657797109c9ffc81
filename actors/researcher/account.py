"""A researcher's account in the ledger: opened once, charged for wall time, asked for its balance.

A model's answer brings the balance along, so that a turn in which nothing else was spent need not ask for it.
"""

from __future__ import annotations

import time
from typing import Any

from actors.gateway.api import ModelApi
from actors.scheduler.client import SchedulerClient
from cluster.money import Amounts, Caps
from cluster.names import CAMPAIGN, PARTS, researcher_account

FRESH_S = 10.0
"""How long a balance is good that an answer brought."""


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
        self._told: dict[str, Any] | None = None
        self._stale_at = 0.0

    async def open(self) -> None:
        """Open the account and its children; the same again changes nothing."""
        no_caps = Caps()
        await self._scheduler.open_account(f"open/{self.name}", self.name, CAMPAIGN, self._caps)
        for part in PARTS:
            name = researcher_account(self._researcher, part)
            await self._scheduler.open_account(f"open/{name}", name, self.name, no_caps)

    async def balance(self) -> dict[str, Any]:
        """As `Ledger.balance`: what an answer of a model has just brought, unless it was forgotten, else asked for.

        What an answer brought counts the researcher's own dollars up to that answer, what others spent up to the call
        that it answers, and of wall time not the last turns.
        """
        if self._told is not None and time.monotonic() < self._stale_at:
            return self._told
        return (await self._scheduler.balance(self.name)).to_dict()

    def forget(self) -> None:
        """Something is spent, or comes back: what was told holds no more."""
        self._told = None

    def tell(self, balance: dict[str, Any] | None) -> None:
        """An answer came with this balance, or with none."""
        self._told, self._stale_at = balance, time.monotonic() + FRESH_S

    async def charge_wall(self, key: str, wall_ms: int) -> None:
        """Charge wall time, or what is left of it when that is less."""
        await self._scheduler.charge(key, self.name, Amounts(wall_ms=wall_ms), "wall time")

    def metered(self, model: ModelApi) -> ModelApi:
        """The same model, whose answers tell the balance."""
        return _Metered(model, self)


class _Metered:
    def __init__(self, model: ModelApi, account: Account) -> None:
        self._model, self._account = model, account

    async def call(self, key: str, researcher: str, request: dict[str, Any]) -> dict[str, Any]:
        """As `ModelApi.call`."""
        self._account.forget()
        answer = await self._model.call(key, researcher, request)
        self._account.tell(answer["balance"])
        return answer
