"""The fake endpoint's HTTP: `/v1/messages`, `/v1/messages/count_tokens`; one thread with a loop of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.fake_messages.cache import PromptCache, TooManyBreakpointsError, count
from tests.fake_messages.replies import WHOLE, Reply, bad_key, context_too_long, failed, size_of, unknown_model

Script = Callable[[dict[str, Any], int], Reply]
COMPACTION_BETA = "compact-2026-01-12"
PIECE = 40
"""Characters of one delta."""
MOST_BODY = 32 << 20


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; `usage` is what its answer said, `None` without one."""

    body: dict[str, Any]
    headers: dict[str, str]
    usage: dict[str, Any] | None


class FakeMessages:
    """The endpoint, running while it is a context. `seen` are the requests to `/v1/messages` in order."""

    def __init__(
        self,
        script: Script,
        keys: set[str] | None = None,
        models: set[str] | None = None,
        window: int = 200_000,
        least_cached: int = 1024,
        port: int = 0,
    ) -> None:
        """`keys` and `models` that are accepted (`None`: any); `window` in tokens of input."""
        self.seen: list[Seen] = []
        self.counted = 0
        self._script, self._keys, self._models, self._window = script, keys, models, window
        self._cache = PromptCache(least_cached)
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        """What a client takes as its base address."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> FakeMessages:
        self._thread.start()
        assert self._ready.wait(10), "the fake endpoint did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _start(self) -> web.AppRunner:
        app = web.Application(client_max_size=MOST_BODY)
        app.add_routes(
            [
                web.post("/v1/messages", self._messages),
                web.post("/v1/messages/count_tokens", self._count_tokens),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        await site.start()
        self._port = int(runner.addresses[0][1])
        return runner

    async def _count_tokens(self, http: web.Request) -> web.StreamResponse:
        self.counted += 1
        return web.json_response({"input_tokens": count(await http.json())})

    async def _messages(self, http: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await http.json()
        number = len(self.seen)
        headers = {name.lower(): value for name, value in http.headers.items()}
        self.seen.append(Seen(body, headers, None))
        reply = self._refuse(body, headers) or self._script(body, number)
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        if reply.error is None:
            try:
                message = self._message(body, reply, number)
            except TooManyBreakpointsError:
                words = "A maximum of 4 blocks with cache_control may be provided."
                reply = failed(400, "invalid_request_error", words)
            else:
                self.seen[number] = Seen(body, headers, message["usage"])
        if reply.error is not None:
            status, kind, words = reply.error
            answer = {"type": "error", "error": {"type": kind, "message": words}}
            return web.json_response(answer, status=status, headers=reply.headers)
        if body.get("stream"):
            return await self._stream(http, message, reply)
        if reply.events_before_end != WHOLE:
            return await _lose(http)
        return web.json_response(message, headers=reply.headers)

    def _refuse(self, body: dict[str, Any], headers: dict[str, str]) -> Reply | None:
        """What the endpoint refuses before a model sees it."""
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if self._keys is not None and key not in self._keys:
            return bad_key()
        if self._models is not None and body.get("model") not in self._models:
            return unknown_model(str(body.get("model")))
        missing = [name for name in ("model", "max_tokens", "messages") if not body.get(name)]
        if missing:
            return failed(400, "invalid_request_error", f"{missing[0]}: Field required")
        unanswered = _unanswered(body["messages"])
        if unanswered:
            return failed(400, "invalid_request_error", f"messages: tool_use ids without tool_result: {unanswered}")
        wrong = _untaken(body["messages"], COMPACTION_BETA in headers.get("anthropic-beta", ""))
        if wrong:
            return failed(400, "invalid_request_error", f"messages: {wrong}")
        tokens = count(body)
        return context_too_long(tokens, self._window) if tokens > self._window else None

    def _message(self, body: dict[str, Any], reply: Reply, number: int) -> dict[str, Any]:
        tokens = reply.output_tokens
        if tokens is None:
            tokens = max(1, sum(-(-len(size_of(block).encode()) // 4) for block in reply.content))
        usage = {**self._cache.usage(body), "output_tokens": tokens, "service_tier": "standard", **reply.usage}
        return {
            "id": f"msg_{number:06d}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [_shown(block) for block in reply.content],
            "stop_reason": reply.stop_reason,
            "stop_sequence": None,
            "usage": usage,
            **reply.extra,
        }

    async def _stream(self, http: web.Request, message: dict[str, Any], reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **reply.headers})
        await response.prepare(http)
        for sent, event in enumerate(_events(message, reply)):
            if sent == reply.events_before_end:
                if reply.stream_error is None:
                    return await _lose(http)
                kind, words = reply.stream_error
                event = {"type": "error", "error": {"type": kind, "message": words}}
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            if event["type"] == "error":
                break
        await response.write_eof()
        return response


def _shown(block: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name != "raw_input"}


def _unanswered(messages: list[dict[str, Any]]) -> list[str]:
    """Ids of tool calls that the next message does not answer."""
    asked: set[str] = set()
    for message in messages:
        blocks = message["content"] if isinstance(message["content"], list) else []
        if message["role"] == "user":
            asked -= {block.get("tool_use_id", "") for block in blocks if block.get("type") == "tool_result"}
        if asked:
            return sorted(asked)
        if message["role"] == "assistant":
            asked = {block["id"] for block in blocks if block.get("type") == "tool_use"}
    return []


def _untaken(messages: list[dict[str, Any]], compacts: bool) -> str:
    """What is wrong with answers that come back: blocks of a beta that is not asked for, thoughts that were cut off."""
    for message in messages:
        if message["role"] != "assistant" or not isinstance(message["content"], list):
            continue
        kinds = [block.get("type") for block in message["content"]]
        if "compaction" in kinds and not compacts:
            return "Input tag 'compaction' found using 'type' does not match any of the expected tags"
        if kinds and kinds[-1] in ("thinking", "redacted_thinking"):
            return f"The final block in an assistant message cannot be `{kinds[-1]}`."
        if any(block.get("type") == "thinking" and not block.get("signature") for block in message["content"]):
            return "Invalid `signature` in `thinking` block"
    return ""


async def _lose(http: web.Request) -> web.StreamResponse:
    """Cut the connection."""
    if http.transport is not None:
        http.transport.abort()
    raise asyncio.CancelledError


def _events(message: dict[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    """The message as the vendor's stream tells it: input usage first, blocks in pieces, output usage last."""
    begun = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    begun["usage"].pop("iterations", None)
    yield {"type": "message_start", "message": begun}
    yield {"type": "ping"}
    for index, block in enumerate(reply.content):
        yield {"type": "content_block_start", "index": index, "content_block": _opened(block)}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    usage = {name: value for name, value in message["usage"].items() if name not in ("service_tier", "cache_creation")}
    end: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": usage,
    }
    if "context_management" in message:
        end["context_management"] = message["context_management"]
    yield end
    yield {"type": "message_stop"}


_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def _opened(block: dict[str, Any]) -> dict[str, Any]:
    return {**_shown(block), **_EMPTY.get(block["type"], {})}


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        yield from ({"type": "text_delta", "text": piece} for piece in _pieces(block["text"]))
    elif block["type"] == "thinking":
        yield from ({"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"]))
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif block["type"] == "tool_use":
        raw = block.get("raw_input") or json.dumps(block["input"])
        yield from ({"type": "input_json_delta", "partial_json": piece} for piece in _pieces(raw))
    elif block["type"] == "compaction":
        yield {"type": "compaction_delta", "content": block["content"]}


def _pieces(words: str) -> Iterator[str]:
    for start in range(0, len(words), PIECE):
        yield words[start : start + PIECE]
