"""Files in the workspace."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actors.researcher.tools.base import Args, Context, Tool
from actors.researcher.workspace import QUOTA_BYTES, Workspace
from cluster.errors import Reason, RefusedError

MAX_READ_CHARS = 60_000


def check_room(workspace: Workspace) -> None:
    """Refuse (`workspace_full`) when the workspace is above its quota."""
    if workspace.used_bytes() > QUOTA_BYTES:
        raise RefusedError(
            Reason.WORKSPACE_FULL, f"the workspace holds more than {QUOTA_BYTES} bytes; delete something"
        )


class WriteArgs(Args):
    """Arguments of `write_file`."""

    path: str = Field(description="path inside the workspace, for example methods/first.py")
    content: str = Field(description="the whole new content, UTF-8, at most 256 KiB")


class WriteFile(Tool[WriteArgs]):
    """Write a text file in the workspace, replacing what was there. Costs nothing. Returns path and bytes.

    Refused: a path outside the workspace or inside forum/, more than 256 KiB, a full workspace.
    """

    name = "write_file"
    free = True
    arguments = WriteArgs

    async def run(self, ctx: Context, args: WriteArgs, key: str) -> dict[str, Any]:
        """See the class."""
        check_room(ctx.workspace)
        return {"path": args.path, "bytes": ctx.workspace.write_text(args.path, args.content)}


class ReadArgs(Args):
    """Arguments of `read_file`."""

    path: str = Field(description="path inside the workspace; forum/INDEX.md lists the forum's posts")
    offset: int = Field(0, ge=0, description="first character")


class ReadFile(Tool[ReadArgs]):
    """Read a text file of the workspace. Costs nothing. Returns up to 60,000 characters from offset, and the total.

    Refused: a path outside the workspace, a link, a file that is missing, not text, or above 256 KiB.
    """

    name = "read_file"
    free = True
    arguments = ReadArgs

    async def run(self, ctx: Context, args: ReadArgs, key: str) -> dict[str, Any]:
        """See the class."""
        text = ctx.workspace.read_text(args.path)
        return {"text": text[args.offset : args.offset + MAX_READ_CHARS], "characters": len(text)}


class ListArgs(Args):
    """`list_files` takes no arguments."""


class ListFiles(Tool[ListArgs]):
    """List the files of the workspace with their sizes, at most 500, hidden ones last. Costs nothing."""

    name = "list_files"
    free = True
    arguments = ListArgs

    async def run(self, ctx: Context, args: ListArgs, key: str) -> dict[str, Any]:
        """See the class."""
        return {"files": ctx.workspace.listing()}
