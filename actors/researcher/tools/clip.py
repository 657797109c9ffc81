"""Bounding what a tool answers: a long text keeps its beginning and its end, a long list its beginning."""

from __future__ import annotations

from typing import Any

MAX_TEXT = 100_000
"""Characters of one text in a result."""
MAX_ENTRIES = 1000
"""Entries of one list or mapping in a result."""
MAX_TOTAL = 1 << 20
"""Characters of all texts of a result."""
SHORTEST = 100


def clip(content: dict[str, Any]) -> dict[str, Any]:
    """`content` within the limits above; one that is within them comes back equal."""
    clipped: dict[str, Any] = _bounded(content, MAX_TEXT)
    limit = MAX_TEXT
    while _size(clipped) > MAX_TOTAL and limit > SHORTEST:
        limit //= 4
        clipped = _bounded(clipped, limit)
    return clipped if _size(clipped) <= MAX_TOTAL else {"clipped": clip_text(repr(clipped), MAX_TEXT)}


def clip_text(text: str, limit: int) -> str:
    """At most about `limit` characters of `text`: two thirds from its beginning, one third from its end."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]}\n[... {len(text) - head - tail} characters left out ...]\n{text[len(text) - tail :]}"


def _bounded(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return clip_text(value, limit)
    if isinstance(value, dict):
        return {str(k)[:200]: _bounded(v, limit) for k, v in list(value.items())[:MAX_ENTRIES]}
    if isinstance(value, list | tuple):
        return [_bounded(v, limit) for v in value[:MAX_ENTRIES]]
    return value


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(k) + _size(v) for k, v in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else 0
