"""What the fake endpoint answers: a message or an error, and how it reaches the client."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

WHOLE = -1


@dataclass(frozen=True)
class Reply:
    """One answer.

    `content` are the blocks; a `tool_use` block with `raw_input` (text) sends that text as its input, JSON or not.
    `output_tokens` is counted from the content unless given. `usage` overrides fields of the usage. `error` is
    `(status, type, message)` and replaces the message. `stream_error` is `(type, message)`, sent as an event after
    `events_before_end` events; without it a stream that is cut after so many events just loses its connection.
    """

    content: tuple[dict[str, Any], ...] = ()
    stop_reason: str | None = "end_turn"
    output_tokens: int | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    error: tuple[int, str, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stream_error: tuple[str, str] | None = None
    events_before_end: int = WHOLE
    delay_s: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def after(self, seconds: float) -> Reply:
        """The same, later."""
        return replace(self, delay_s=seconds)


def text(words: str, **changes: Any) -> Reply:
    """A message of text that ends its turn."""
    return Reply(content=({"type": "text", "text": words},), **changes)


def tool(name: str, arguments: dict[str, Any], call_id: str = "toolu_1") -> dict[str, Any]:
    """A block that calls a tool."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def tools(*calls: dict[str, Any], words: str = "") -> Reply:
    """A message that calls tools, several at once if there are several."""
    said = ({"type": "text", "text": words},) if words else ()
    return Reply(content=(*said, *calls), stop_reason="tool_use")


def compacted(summary: str, words: str, read: int, written: int) -> Reply:
    """The server compacted the history first, which read and wrote so many tokens beside those of the answer."""
    work = {
        "type": "compaction",
        "input_tokens": read,
        "output_tokens": written,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    block = {"type": "compaction", "content": summary}
    return Reply(content=(block, {"type": "text", "text": words}), usage={"iterations": [work]})


def malformed_tool(name: str, raw_input: str = '{"path": "a.py", "content": oops') -> Reply:
    """A tool call whose input is not JSON."""
    block = {"type": "tool_use", "id": "toolu_bad", "name": name, "input": {}, "raw_input": raw_input}
    return Reply(content=(block,), stop_reason="tool_use")


def thinking(thought: str, words: str) -> Reply:
    """A message that was thought about."""
    return Reply(
        content=({"type": "thinking", "thinking": thought, "signature": "c2lnbmVk"}, {"type": "text", "text": words})
    )


def refusal() -> Reply:
    """The model declines."""
    return Reply(content=(), stop_reason="refusal")


def pause_turn(words: str = "Still at it.") -> Reply:
    """A long turn that asks to be continued."""
    return text(words, stop_reason="pause_turn")


def cut_short(words: str = "And so the conclusion is") -> Reply:
    """`max_tokens` ended the answer."""
    return text(words, stop_reason="max_tokens")


def window_full(words: str = "So far") -> Reply:
    """The window of the model ended the answer."""
    return text(words, stop_reason="model_context_window_exceeded")


def unknown_stop() -> Reply:
    """A stop reason that nobody has heard of."""
    return text("Done?", stop_reason="moonrise")


def empty() -> Reply:
    """A model that answers nothing."""
    return Reply(content=(), stop_reason="end_turn", output_tokens=1)


def failed(status: int, kind: str, message: str, **headers: str) -> Reply:
    """An error of the endpoint."""
    return Reply(error=(status, kind, message), headers=headers)


def rate_limited(retry_after: float | None = None) -> Reply:
    """429, with the time after which to come again."""
    headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
    return Reply(error=(429, "rate_limit_error", "This request would exceed your rate limit"), headers=headers)


def overloaded() -> Reply:
    """529."""
    return failed(529, "overloaded_error", "Overloaded")


def server_error(status: int = 500) -> Reply:
    """A fault of the endpoint."""
    return failed(status, "api_error", "Internal server error")


def dropped(events: int = 3, words: str = "This sentence will never") -> Reply:
    """The connection is lost after so many events (0: before the first)."""
    return text(words, events_before_end=events)


def overloaded_midway(events: int = 3) -> Reply:
    """An error event in a stream that has begun."""
    return text("It began so", events_before_end=events, stream_error=("overloaded_error", "Overloaded"))


def context_too_long(tokens: int = 213_000, window: int = 200_000) -> Reply:
    """The input does not fit the window."""
    return failed(400, "invalid_request_error", f"prompt is too long: {tokens} tokens > {window} maximum")


def bad_key() -> Reply:
    """401."""
    return failed(401, "authentication_error", "invalid x-api-key")


def forbidden() -> Reply:
    """403."""
    return failed(403, "permission_error", "Your API key does not have permission to use the specified resource")


def redirected(url: str, status: int = 307) -> Reply:
    """Somebody else is to be asked."""
    return failed(status, "redirect", "Moved", location=url)


def no_credit() -> Reply:
    """The organisation's credit is used up."""
    words = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."
    return failed(400, "invalid_request_error", words)


def unknown_model(name: str) -> Reply:
    """404 for a model."""
    return failed(404, "not_found_error", f"model: {name}")


def too_large() -> Reply:
    """413."""
    return failed(413, "request_too_large", "Request exceeds the maximum size")


def size_of(block: dict[str, Any]) -> str:
    """The text of a content block that counts as output."""
    return block.get("raw_input") or json.dumps(block, ensure_ascii=False)
