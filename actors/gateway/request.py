"""The body of a call: what may stand in it, and an upper bound of the tokens it becomes. Pure.

What has no price in the table is refused: other service tiers, speeds and regions, tools that the vendor runs, beta
features with prices of their own, images and documents (whose tokens no count of bytes bounds).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.errors import Reason, RefusedError

FIELDS = frozenset({
    "model", "max_tokens", "system", "messages", "tools", "tool_choice", "thinking", "context_management", "betas",
    "metadata", "stop_sequences", "temperature", "top_p", "top_k", "output_config", "cache_control",
})  # fmt: skip
TOOL_TYPES = ("custom", "bash_", "text_editor_", "memory_")
"""Tools that the client runs; those that the vendor runs have prices of their own."""
PRICED_BETAS = ("context-1m", "fast-mode")
"""Beta features that change the price of a token."""
UNBOUNDED = frozenset({"image", "document", "container_upload"})
MOST_BYTES = 32 << 20
"""The endpoint takes no larger body."""
HIDDEN_TOKENS = 2048
"""What the vendor adds to a prompt by itself (it documents about 350 tokens for tools and 700 for those of its own
making), generously."""


@dataclass(frozen=True, slots=True)
class Body:
    """A checked request. `size` is the length of its JSON in bytes."""

    fields: dict[str, Any]
    size: int

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.fields["model"])

    @property
    def max_tokens(self) -> int:
        """Most tokens of output."""
        return int(self.fields["max_tokens"])

    @property
    def compacts(self) -> bool:
        """Whether the endpoint may compact the history, which costs another pass over it."""
        edits = (self.fields.get("context_management") or {}).get("edits") or []
        return any(str(edit.get("type", "")).startswith("compact") for edit in edits)

    @property
    def input_bound(self) -> int:
        """At least as many tokens as the prompt has.

        A token of a byte-level vocabulary is at least one byte of the text that it stands for, and the JSON of a
        block is longer than its text by more than the few special tokens that frame it.
        """
        return self.size + HIDDEN_TOKENS


def check_fields(request: Any) -> None:
    """Refuse what is no body, or has fields without a price. Raises `RefusedError` "bad_request"."""
    if not isinstance(request, dict):
        raise bad("request", "expected a mapping")
    unknown = sorted(set(request) - FIELDS)
    if unknown:
        raise bad(unknown[0], f"not priced or not known; expected fields among {', '.join(sorted(FIELDS))}")
    _check_shape(request)
    for tool in request.get("tools") or ():
        if not isinstance(tool, dict) or not str(tool.get("type") or "custom").startswith(TOOL_TYPES):
            raise bad("tools", "tools that the endpoint runs have prices that are not in the table")
    for beta in request.get("betas") or ():
        if str(beta).startswith(PRICED_BETAS):
            raise bad("betas", f"{beta} changes prices in a way that is not in the table")


def check_content(messages: list[dict[str, Any]]) -> None:
    """Refuse blocks whose tokens no count of bytes bounds. Raises `RefusedError` "bad_request"."""
    for block in _blocks(messages):
        if block.get("type") in UNBOUNDED:
            raise bad("messages", f"a block of type {block['type']} has tokens that cannot be counted beforehand")


def check_size(size: int) -> None:
    """Refuse a body of so many bytes when the endpoint does. Raises `RefusedError` "too_large"."""
    if size > MOST_BYTES:
        detail = {"bytes": size, "most": MOST_BYTES}
        raise RefusedError(Reason.TOO_LARGE, f"the request has {size} bytes, the endpoint takes {MOST_BYTES}", detail)


def _check_shape(request: dict[str, Any]) -> None:
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise bad("model", "expected a name")
    tokens = request.get("max_tokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 < tokens <= 1_000_000:
        raise bad("max_tokens", "expected an integer from 1 to 1000000")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise bad("messages", "expected a list of messages")


def bad(field: str, expected: str) -> RefusedError:
    """A refusal of what stands in a field."""
    return RefusedError(Reason.BAD_REQUEST, f"{field}: {expected}", {"field": field})


def _blocks(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All content blocks, those inside of tool results too."""
    stack: list[Any] = [message.get("content") for message in messages]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            yield value
            stack.append(value.get("content"))


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def digest(data: bytes) -> str:
    """Lower-case hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


Steps = list[str | int]
"""The steps from a value to a block in it."""
Mark = tuple[Steps, Any]
"""A `cache_control` with the path to the block that had it."""


def without_marks(value: Any, path: tuple[str | int, ...] = ()) -> tuple[Any, list[Mark]]:
    """The value without its `cache_control` entries, and those entries.

    Breakpoints move on with every turn; without them the older part of a history stays the same.
    """
    if isinstance(value, dict):
        marks: list[Mark] = [(list(path), value["cache_control"])] if "cache_control" in value else []
        bare = {}
        for name, item in value.items():
            if name != "cache_control":
                bare[name], found = without_marks(item, (*path, name))
                marks += found
        return bare, marks
    if isinstance(value, list):
        pairs = [without_marks(item, (*path, n)) for n, item in enumerate(value)]
        return [item for item, _ in pairs], [mark for _, found in pairs for mark in found]
    return value, []


def with_marks(value: Any, marks: list[Mark]) -> Any:
    """The inverse of `without_marks`; changes `value` in place."""
    for path, mark in marks:
        block_at(value, path)["cache_control"] = mark
    return value


def block_at(value: Any, path: Steps) -> Any:
    """The block at the end of a path."""
    for step in path:
        value = value[step]
    return value


def asks_long_cache(marks: list[Mark]) -> bool:
    """Whether a breakpoint asks for a cache of an hour."""
    return any(isinstance(mark, dict) and mark.get("ttl") == "1h" for _, mark in marks)
