"""Scores: submission to the evaluator, and the board."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from actors.researcher.tools.base import Args, Context, LongArgs, LongTool, Tool
from actors.researcher.tools.method_file import read_method


class SubmitArgs(LongArgs):
    """Arguments of `submit`."""

    path: str = Field(description="method file in the workspace")
    name: str = Field(min_length=1, max_length=80, description="short name of the method")
    tier: Literal["dev", "board"] = "dev"
    parent: str | None = Field(None, description="snapshot that the method grew out of")


class Submit(LongTool[SubmitArgs]):
    """Have the evaluator score a method. Costs one answer and the GPU time of its counted runs.

    The file is kept as a snapshot of the code store first. `dev` returns a noised mean accuracy and PGR over a
    few seeds, for research, and orders the finalists that never led the board; `board` competes on the leaderboard
    and returns only whether it is a new best.
    The same code is not run twice, in whatever spelling, and a method that says what an earlier one said (`same_as`)
    gets that one's answer and no place of its own. With background=true it returns at once and you can go on; you are
    told of the answer. Refused: over budget, no answers left, a file that is no method.
    """

    name = "submit"
    arguments = SubmitArgs

    async def plan(self, ctx: Context, args: SubmitArgs, key: str) -> dict[str, Any]:
        """See the class."""
        files = {"method.py": read_method(ctx.workspace, args.path)}
        snapshot = await ctx.forum.push_code(f"{key}/push", ctx.researcher, files, args.parent, args.name)
        return {"snapshot": snapshot, "name": args.name, "tier": args.tier}

    async def carry(self, ctx: Context, plan: dict[str, Any], key: str) -> dict[str, Any]:
        """See the class."""
        answer = await ctx.evaluator.submit(key, ctx.researcher, plan["snapshot"], plan["name"], plan["tier"])
        return {**{name: value for name, value in answer.items() if name != "pad"}, "snapshot": plan["snapshot"]}


class BoardArgs(Args):
    """`leaderboard` takes no arguments."""


class Leaderboard(Tool[BoardArgs]):
    """The rows of the leaderboard: method, researcher, tier, pgr, record id, status. Costs nothing."""

    name = "leaderboard"
    free = True
    arguments = BoardArgs

    async def run(self, ctx: Context, args: BoardArgs, key: str) -> dict[str, Any]:
        """See the class."""
        return {"rows": await ctx.evaluator.leaderboard()}
