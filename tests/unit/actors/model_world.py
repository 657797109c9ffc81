"""A model behind a real gateway on a real ledger, in one process; requests are checked as an endpoint would."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.gateway.client import ModelAnswer
from actors.gateway.endpoint import Begun
from actors.gateway.gateway import Gateway
from actors.gateway.requests import Body, Parts
from actors.gateway.retries import AttemptFailedError, Failure
from cluster.errors import RefusedError
from tests.fake_messages import replies
from tests.fake_messages.cache import PromptCache, count, segments
from tests.fake_messages.replies import Reply, size_of, text, tool, tools
from tests.unit.actors.gateway_world import MEMORY, MODEL, FakeLedger, campaign, make
from tests.unit.actors.researcher_world import Fuse

Script = Callable[[dict[str, Any], int], Reply | RefusedError]
"""From a request and the number of the answer to what is answered."""


class FakeModel:
    """A gateway whose endpoint plays a script. `paid` and `refused` are the keys in order."""

    def __init__(self, script: Script, fuse: Fuse | None = None) -> None:
        self.script, self.fuse = script, fuse or Fuse()
        self.requests: list[dict[str, Any]] = []
        self.paid: list[str] = []
        self.refused: list[str] = []
        self.usages: list[dict[str, Any]] = []
        self._cache = PromptCache(least=16)
        self._folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self._gateway: Gateway | None = None

    async def call(self, key: str, researcher: str, request: dict[str, Any]) -> ModelAnswer:
        self.fuse.point()
        json.dumps(request).encode()
        if self._gateway is None:
            root, model = Path(self._folder.name), request["model"]
            config = campaign() if model == MODEL else campaign("brain.kind=local", f"brain.model={model}")
            self._gateway = make(root, FakeLedger(root / "scheduler.db", usd=1000, each=1000), self, config)
        answer = await self._gateway.call(key, researcher, request)
        self.fuse.point()
        return copy.deepcopy(answer)

    async def send(self, key: str, body: Body, parts: Parts, begun: Begun) -> dict[str, Any]:
        assert_sound(body.fields)
        self.requests.append(copy.deepcopy(body.fields))
        reply = self.script(body.fields, len(self.paid))
        if isinstance(reply, RefusedError):
            self.refused.append(key)
            raise AttemptFailedError(Failure(reply.reason, reply.message, detail=reply.detail))
        self.paid.append(key)
        return self._message(body.fields, reply)

    def status(self) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        return

    def _message(self, request: dict[str, Any], reply: Reply) -> dict[str, Any]:
        output = sum(-(-len(size_of(block)) // 4) for block in reply.content)
        usage = {**self._cache.usage(request), "output_tokens": max(1, output), **reply.usage}
        self.usages.append(usage)
        return {
            "id": f"msg_{len(self.paid)}",
            "type": "message",
            "role": "assistant",
            "model": request["model"],
            "content": list(reply.content),
            "stop_reason": reply.stop_reason,
            "usage": usage,
        }


def assert_sound(request: dict[str, Any]) -> None:
    """What an endpoint refuses: roles that do not alternate, empty content, calls without results, five breakpoints,
    a compacted history in a request that does not ask for compaction, thoughts that were cut off.
    """
    messages = request["messages"]
    assert [m["role"] for m in messages] == [("user", "assistant")[n % 2] for n in range(len(messages))]
    asked: list[str] = []
    for message in messages:
        assert message["content"], "an empty message"
        for block in message["content"]:
            assert block["type"] != "text" or block["text"].strip(), "an empty text"
        if message["role"] == "user":  # a request may end with an answer that paused
            given = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
            assert given == asked, "results that do not follow their calls in order"
            kinds = [block["type"] for block in message["content"]]
            assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result"), "results come first"
        else:
            assert message["content"][-1]["type"] not in ("thinking", "redacted_thinking"), "a thought at the end"
            thoughts = [block for block in message["content"] if block["type"] == "thinking"]
            assert all(block["signature"] for block in thoughts), "a thought without its signature"
        asked = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
    compacted = any(block["type"] == "compaction" for message in messages for block in message["content"])
    assert not compacted or ("compact-2026-01-12" in request["betas"] and request["context_management"]["edits"])
    assert not asked, "a request that ends with calls without results"
    assert sum(part.ttl is not None for part in segments(request)) <= 4
    assert count(request) > 0


def plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages without cache breakpoints."""
    return [
        {**m, "content": [{k: v for k, v in b.items() if k != "cache_control"} for b in m["content"]]} for m in messages
    ]


def texts(message: dict[str, Any]) -> str:
    """All text of a message, that of results too."""
    found = []
    for block in message["content"]:
        inner = block.get("content") if block["type"] == "tool_result" else [block]
        found += [part.get("text", "") for part in inner]
    return "\n".join(found)


def scripted(*steps: Reply | RefusedError) -> Script:
    """Answers in order, and `finish` when there are no more."""

    def answer(request: dict[str, Any], number: int) -> Reply | RefusedError:
        return steps[number] if number < len(steps) else tools(tool("finish", {}, "end"))

    return answer


def play(*steps: Any) -> Callable[[dict[str, Any], int], Reply | RefusedError]:
    """As `scripted`, but counted by the requests that arrived, so that a refusal is a step, too."""
    left = list(steps)

    def answer(request: dict[str, Any], number: int) -> Reply | RefusedError:
        return left.pop(0) if left else tools(tool("finish", {}, "end"))

    return answer


__all__ = [
    "FakeModel",
    "Reply",
    "assert_sound",
    "plain",
    "play",
    "replies",
    "scripted",
    "text",
    "texts",
    "tool",
    "tools",
]
