"""Budget, waiting, and the end."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field

from actors.researcher.tools.base import Args, Context, Tool
from actors.researcher.types import FINISH


class BudgetArgs(Args):
    """`budget` takes no arguments."""


class Budget(Tool[BudgetArgs]):
    """What the account has spent, reserved and left: micro-dollars, GPU milliseconds, wall milliseconds, answers.

    Costs nothing.
    """

    name = "budget"
    free = True
    arguments = BudgetArgs

    async def run(self, ctx: Context, args: BudgetArgs, key: str) -> dict[str, Any]:
        """See the class."""
        return await ctx.scheduler.balance(ctx.account)


class WaitArgs(Args):
    """Arguments of `wait`."""

    seconds: float = Field(gt=0, le=300)


class Wait(Tool[WaitArgs]):
    """Do nothing for up to 300 seconds, for example until others have posted. Costs wall time. Ends early at a stop."""

    name = "wait"
    arguments = WaitArgs

    async def run(self, ctx: Context, args: WaitArgs, key: str) -> dict[str, Any]:
        """See the class."""
        try:
            await asyncio.wait_for(ctx.stopping.wait(), args.seconds)
        except TimeoutError:
            return {"seconds": args.seconds, "stopped": False}
        return {"seconds": args.seconds, "stopped": True}


class FinishArgs(Args):
    """Arguments of `finish`."""

    reason: str = Field("", max_length=400)


class Finish(Tool[FinishArgs]):
    """End this researcher's work for good, after the other calls of the turn. Costs nothing."""

    name = FINISH
    free = True
    arguments = FinishArgs

    async def run(self, ctx: Context, args: FinishArgs, key: str) -> dict[str, Any]:
        """See the class."""
        return {"reason": args.reason}
