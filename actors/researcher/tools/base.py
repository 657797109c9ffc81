"""What a tool is, and the box that runs them.

Promise: `ToolBox.run` always answers with a `ToolResult` of a bounded size. A bad argument, a refusal of a service, a
missing file, a service that does not answer: each becomes a result with a reason, because none of them may end a
researcher. What runs in the background answers in the same way, later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.evaluator.client import EvaluatorClient
from actors.researcher.runs import Run, Runs
from actors.researcher.tools.clip import clip
from actors.researcher.tools.notifier import Notifier
from actors.researcher.types import ToolCall, ToolResult
from actors.researcher.workspace import Workspace
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig
from cluster.errors import AarError, RefusedError
from forum_actor.client import ForumClient

log = logging.getLogger(__name__)
MAX_MESSAGE = 2000
AT_ONCE_S = 0.5
"""A run in the background that ends or is refused within this time is answered at once."""


class Args(BaseModel):
    """Base of tool arguments: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=1 << 19)


A = TypeVar("A", bound=Args)


@dataclass(frozen=True)
class Context:
    """What tools work with: who asks, who pays, where files are, and the services."""

    researcher: str
    account: str
    config: CampaignConfig
    workspace: Workspace
    public: str
    task: dict[str, Any]
    scheduler: SchedulerClient
    forum: ForumClient
    evaluator: EvaluatorClient
    runs: Runs
    notifier: Notifier
    sandbox_uid: int = 64001
    failures: tuple[type[Exception], ...] = field(default=())
    """Errors of the transport (Ray's) that count as "the office did not answer"."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the researcher was told to stop."""


class Tool(Generic[A]):
    """One tool.

    `free` ones cost nothing and stay open when the budget is gone; one that is not `repeatable` is never run twice.
    """

    name: ClassVar[str]
    free: ClassVar[bool] = False
    repeatable: ClassVar[bool] = True
    arguments: type[A]

    async def run(self, ctx: Context, args: A, key: str) -> dict[str, Any]:
        """Carry the call out and return its content. Raises `RefusedError` with a reason."""
        raise NotImplementedError

    def offered(self, ctx: Context) -> bool:
        """Whether this campaign has the tool."""
        return True

    def describe(self) -> dict[str, Any]:
        """Name, description and JSON schema of the arguments, as a language model takes them."""
        text = " ".join((type(self).__doc__ or "").split())
        return {"name": self.name, "description": text, "input_schema": self.arguments.model_json_schema()}


class LongArgs(Args):
    """Arguments of a tool that takes long."""

    background: bool = Field(
        False, description="true: return at once with the name of the run; you are told of its result when it ends"
    )


L = TypeVar("L", bound=LongArgs)


class LongTool(Tool[L]):
    """A tool that uses GPUs and can run in the background. It first makes a plan, which holds all that it needs;
    carrying the plan out is idempotent by its key.
    """

    async def plan(self, ctx: Context, args: L, key: str) -> dict[str, Any]:
        """The plan, as plain data: later changes of files do not change it. Raises `RefusedError`."""
        raise NotImplementedError

    async def carry(self, ctx: Context, plan: dict[str, Any], key: str) -> dict[str, Any]:
        """Carry a plan out and return its content. Raises `RefusedError`."""
        raise NotImplementedError

    async def abandon(self, ctx: Context, key: str) -> None:
        """Nobody waits for a run any more: stop what can be stopped. Raises `RefusedError`."""

    async def run(self, ctx: Context, args: L, key: str) -> dict[str, Any]:
        """Both, one after the other."""
        return await self.carry(ctx, await self.plan(ctx, args, key), key)


class ToolBox:
    """The tools of one researcher."""

    def __init__(self, ctx: Context, tools: list[Tool[Any]]) -> None:
        self.ctx = ctx
        self._failures: tuple[type[Exception], ...] = (AarError, *ctx.failures)
        self._tools = {tool.name: tool for tool in tools if tool.offered(ctx)}

    @property
    def names(self) -> tuple[str, ...]:
        """The tools that are offered."""
        return tuple(self._tools)

    def describe(self) -> list[dict[str, Any]]:
        """All tools, as a language model takes them."""
        return [tool.describe() for tool in self._tools.values()]

    def is_free(self, name: str) -> bool:
        """Whether a call costs nothing."""
        return name in self._tools and self._tools[name].free

    def is_repeatable(self, name: str) -> bool:
        """Whether a call that was cut short may run again with its key."""
        return name not in self._tools or self._tools[name].repeatable

    async def run(self, call: ToolCall, key: str) -> ToolResult:
        """Run a call under its idempotency key."""
        tool = self._tools.get(call.name)
        if tool is None:
            return ToolResult.refused("unknown_tool", f"no tool {call.name[:80]!r}; there are {', '.join(self._tools)}")
        try:
            args = tool.arguments.model_validate(call.args)
        except ValidationError as error:
            return ToolResult.refused("bad_arguments", _explain(error))
        if isinstance(tool, LongTool) and args.background:
            return await self._start(tool, args, key)
        return await self._guarded(call.name, tool.run(self.ctx, args, key))

    def resume(self) -> None:
        """Take up the runs in the background that were going on when the process died."""
        for run in self.ctx.runs.going():
            self.ctx.runs.carry_run(run, self._carry)

    async def abandon(self) -> None:
        """Stop the runs in the background that still go on: the researcher ends."""
        for run in self.ctx.runs.going():
            tool = self._tools.get(run.tool)
            if isinstance(tool, LongTool):
                try:
                    await tool.abandon(self.ctx, run.key)
                except self._failures as error:
                    log.warning("%s: %s goes on: %s", self.ctx.researcher, run.name, error)

    async def _start(self, tool: LongTool[Any], args: LongArgs, key: str) -> ToolResult:
        """Begin a run in the background; a repeated call finds the one that it began."""
        run = self.ctx.runs.find(key)
        if run is None:
            planned = await self._guarded(tool.name, tool.plan(self.ctx, args, key), bounded=False)
            if not planned.ok:
                return planned
            run = self.ctx.runs.open(key, tool.name, args.model_dump(mode="json"), planned.content)
        self.ctx.runs.carry_run(run, self._carry)
        ended = await self.ctx.runs.at_once(key, AT_ONCE_S)
        return ended or ToolResult(True, {"run": run.name, "state": "started"})

    async def _carry(self, run: Run) -> ToolResult:
        tool = self._tools.get(run.tool)
        if not isinstance(tool, LongTool):
            return ToolResult.refused("unknown_tool", f"{run.tool} is not offered any more")
        return await self._guarded(run.tool, tool.carry(self.ctx, run.plan, run.key))

    async def _guarded(self, name: str, work: Awaitable[dict[str, Any]], bounded: bool = True) -> ToolResult:
        try:
            content = await work
            return ToolResult(True, clip(content) if bounded else content)
        except RefusedError as error:
            return ToolResult.refused(error.reason, error.message[:MAX_MESSAGE], error.detail)
        except AarError as error:
            return ToolResult.refused("failed", str(error)[:MAX_MESSAGE])
        except OSError as error:
            return ToolResult.refused("io", f"{error.__class__.__name__}: {error}"[:MAX_MESSAGE])
        except self.ctx.failures as error:
            log.warning("%s: %s failed: %s", self.ctx.researcher, name, error)
            return ToolResult.refused("office", f"a service of the campaign failed: {error}"[:MAX_MESSAGE])


def _explain(error: ValidationError) -> str:
    parts = [f"{'.'.join(map(str, p['loc'])) or 'arguments'}: {p['msg']}" for p in error.errors(include_input=False)]
    return "; ".join(parts)[:MAX_MESSAGE]
