"""The tools of a researcher. `TOOLS` is the one list of them."""

from __future__ import annotations

from typing import Any

from actors.researcher.tools.base import Args, Context, LongTool, Tool, ToolBox
from actors.researcher.tools.code import CodeDiff, CodeFetch, CodePush
from actors.researcher.tools.control import Budget, Finish, Wait, wait_for_news
from actors.researcher.tools.edit import Edit
from actors.researcher.tools.files import ListFiles, ReadFile, WriteFile
from actors.researcher.tools.forum import ForumClaim, ForumClaims, ForumPost, ForumRead, ForumSearch
from actors.researcher.tools.notifier import Notifier
from actors.researcher.tools.pilot import RunPilot
from actors.researcher.tools.scoring import Leaderboard, Submit
from actors.researcher.tools.shell import Bash

TOOLS: tuple[type[Tool[Any]], ...] = (
    Bash,
    Edit,
    WriteFile,
    ReadFile,
    ListFiles,
    RunPilot,
    Submit,
    Leaderboard,
    ForumPost,
    ForumRead,
    ForumSearch,
    ForumClaim,
    ForumClaims,
    CodePush,
    CodeFetch,
    CodeDiff,
    Budget,
    Wait,
    Finish,
)


def make_toolbox(ctx: Context) -> ToolBox:
    """All tools that this campaign offers."""
    return ToolBox(ctx, [tool() for tool in TOOLS])


__all__ = [
    "TOOLS",
    "Args",
    "Context",
    "LongTool",
    "Notifier",
    "Tool",
    "ToolBox",
    "make_toolbox",
    "wait_for_news",
]
