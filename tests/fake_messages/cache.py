"""How the fake endpoint counts tokens and what it finds in its prompt cache.

A token is four bytes, begun ones counted whole per segment. The prompt is a list of segments in the vendor's order:
tools, system, the blocks of messages. A segment with `cache_control` is a breakpoint. What is read is the longest
prefix that an earlier request stored at a breakpoint, as far as it ends at most 20 segments before a breakpoint of
this request; what lies between it and the last breakpoint is written, and the rest is plain input. Prefixes below
`least` tokens are not stored. Everything before the last compaction block counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LOOK_BACK = 20
MOST_BREAKPOINTS = 4
TTL_S = {"5m": 300.0, "1h": 3600.0}


@dataclass(frozen=True)
class Segment:
    """A part of the prompt; `ttl` is set at a breakpoint."""

    body: str
    ttl: str | None

    @property
    def tokens(self) -> int:
        """Its size."""
        return -(-len(self.body.encode()) // 4)


class TooManyBreakpointsError(Exception):
    """More than four."""


def segments(request: dict[str, Any]) -> list[Segment]:
    """The prompt of a request."""
    found = [*_parts(request.get("tools") or [], "tool"), *_parts(_blocks(request.get("system")), "system")]
    messages = request.get("messages") or []
    for message in messages[_after_compaction(messages) :]:
        found += _parts(_blocks(message["content"]), message["role"])
    return found


def count(request: dict[str, Any]) -> int:
    """Input tokens of a request."""
    return sum(segment.tokens for segment in segments(request))


def _after_compaction(messages: list[dict[str, Any]]) -> int:
    last = 0
    for n, message in enumerate(messages):
        if any(block.get("type") == "compaction" for block in _blocks(message["content"])):
            last = n
    return last


def _blocks(content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _parts(blocks: list[dict[str, Any]], role: str) -> Iterator[Segment]:
    for block in blocks:
        mark = block.get("cache_control")
        bare = {name: value for name, value in block.items() if name != "cache_control"}
        ttl = None if mark is None else str(mark.get("ttl", "5m"))
        yield Segment(role + json.dumps(bare, sort_keys=True, ensure_ascii=False), ttl)


class PromptCache:
    """Prefixes that were stored, with the time at which each is forgotten."""

    def __init__(self, least: int = 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._least, self._clock = least, clock
        self._until: dict[str, float] = {}

    def usage(self, request: dict[str, Any]) -> dict[str, Any]:
        """The input side of the usage; what it wrote is stored. Raises `TooManyBreakpointsError`."""
        parts = segments(request)
        marks = [n for n, part in enumerate(parts) if part.ttl is not None]
        if len(marks) > MOST_BREAKPOINTS:
            raise TooManyBreakpointsError
        prefixes = self._prefixes(str(request.get("model")), parts)
        total = sum(part.tokens for part in parts)
        now = self._clock()
        read, read_at = 0, -1
        for mark in marks:
            for n in range(mark, max(-1, mark - LOOK_BACK - 1), -1):
                if self._until.get(prefixes[n][0], 0) > now and n > read_at:
                    read, read_at = prefixes[n][1], n
        written = {"5m": 0, "1h": 0}
        at = read
        for mark in marks:
            name, size = prefixes[mark]
            ttl = parts[mark].ttl or "5m"
            if size >= self._least:
                written[ttl] += max(0, size - at)
                at = max(at, size)
                self._until[name] = now + TTL_S[ttl]
        if read_at >= 0:
            name = prefixes[read_at][0]
            self._until[name] = max(self._until[name], now + TTL_S["5m"])
        return {
            "input_tokens": total - at,
            "cache_creation_input_tokens": sum(written.values()),
            "cache_read_input_tokens": read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": written["5m"],
                "ephemeral_1h_input_tokens": written["1h"],
            },
        }

    @staticmethod
    def _prefixes(model: str, parts: list[Segment]) -> list[tuple[str, int]]:
        digest, size, found = hashlib.sha256(model.encode()), 0, []
        for part in parts:
            digest.update(f"{len(part.body)}:{part.body}".encode())
            size += part.tokens
            found.append((digest.hexdigest(), size))
        return found
