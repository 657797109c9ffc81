"""Budget, waiting, and the end."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from pydantic import Field

from actors.researcher.stall_detection import PAUSED_TITLE
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
        return (await ctx.scheduler.balance(ctx.account)).to_dict()


class WaitArgs(Args):
    """Arguments of `wait`."""

    seconds: float = Field(gt=0, le=3600, description="longest time to wait")
    until: Literal["any", "run", "post", "time"] = Field(
        "any", description="what ends the wait early: a run in the background, a new post, either, or nothing"
    )


class Wait(Tool[WaitArgs]):
    """Do nothing until a run in the background ends, another researcher posts, or the time is over (at most 3600 s).

    Costs wall time, no tokens and no money. Returns what ended it (`run`, `post`, `time` or `stop`; `nothing` when
    it was to wait for a run and none goes on) and the runs that still go on; what is new comes with the next turn.
    """

    name = "wait"
    arguments = WaitArgs

    async def run(self, ctx: Context, args: WaitArgs, key: str) -> dict[str, Any]:
        """See the class."""
        woken_by = await wait_for_news(ctx, args.seconds, args.until)
        running = [run.name for run in ctx.runs.going()]
        return {"seconds": args.seconds, "woken_by": woken_by, "running": running}


async def wait_for_news(ctx: Context, seconds: float, until: str) -> str:
    """Wait as the tool `wait` does; what ended the wait.

    That somebody rests is no news, or a team that stalls would keep itself awake.
    """
    deadline = time.monotonic() + seconds
    looked = ctx.notifier.seen
    events = (ctx.stopping, ctx.runs.changed, ctx.notifier.changed)
    while True:
        ctx.runs.changed.clear()
        ctx.notifier.changed.clear()
        if ctx.stopping.is_set():
            return "stop"
        if until in ("any", "run") and ctx.runs.untold():
            return "run"
        if until == "run" and not ctx.runs.going():
            return "nothing"
        if until in ("any", "post") and ctx.config.forum.enabled:
            while posts := await ctx.notifier.unread(looked):
                if any(post["title"] != PAUSED_TITLE for post in posts):
                    return "post"
                looked = posts[-1]["seq"]
        left = deadline - time.monotonic()
        if left <= 0:
            return "time"
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for waiting in waits:
            waiting.cancel()


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
