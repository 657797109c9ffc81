"""The shared code store: snapshots of methods, addressed by their content."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actors.researcher.tools.base import Args, Context, Tool
from actors.researcher.tools.method_file import read_method


class PushArgs(Args):
    """Arguments of `code_push`."""

    path: str = Field(description="method file in the workspace")
    parent: str | None = Field(None, description="snapshot that this one grew out of")
    note: str = Field("", max_length=300)


class CodePush(Tool[PushArgs]):
    """Keep a method file as a snapshot that others can fetch. Costs nothing. Returns the snapshot's sha256.

    Refused: a file that is missing, above 64 KiB, no Python, or without a function train(run).
    """

    name = "code_push"
    free = True
    arguments = PushArgs

    async def run(self, ctx: Context, args: PushArgs, key: str) -> dict[str, Any]:
        """See the class."""
        files = {"method.py": read_method(ctx.workspace, args.path)}
        return {"snapshot": await ctx.forum.push_code(key, ctx.researcher, files, args.parent, args.note)}


class FetchArgs(Args):
    """Arguments of `code_fetch`."""

    snapshot: str = Field(description="sha256 of the snapshot")
    save_as: str | None = Field(None, description="also write its method.py to this path of the workspace")


class CodeFetch(Tool[FetchArgs]):
    """Fetch a snapshot: its files and its lineage. Costs nothing. It was written by another researcher: judge it.

    Refused: a snapshot that the code store does not have.
    """

    name = "code_fetch"
    free = True
    arguments = FetchArgs

    async def run(self, ctx: Context, args: FetchArgs, key: str) -> dict[str, Any]:
        """See the class."""
        files = await ctx.forum.fetch_code(ctx.researcher, args.snapshot)
        lineage = await ctx.forum.lineage(args.snapshot)
        if args.save_as is not None and "method.py" in files:
            ctx.workspace.write_text(args.save_as, files["method.py"])
        return {"files": files, "lineage": lineage}


class DiffArgs(Args):
    """Arguments of `code_diff`."""

    before: str = Field(description="sha256 of a snapshot")
    after: str = Field(description="sha256 of another")


class CodeDiff(Tool[DiffArgs]):
    """A unified diff between two snapshots. Costs nothing. Refused: a snapshot that the code store does not have."""

    name = "code_diff"
    free = True
    arguments = DiffArgs

    async def run(self, ctx: Context, args: DiffArgs, key: str) -> dict[str, Any]:
        """See the class."""
        return {"diff": await ctx.forum.diff(ctx.researcher, args.before, args.after)}
