"""How a post looks to a reader: quoted data with its author, the evaluator's figures apart from the author's words.

Promise: no text of an author can pass for a line of the forum, because every such line starts with `> ` and the rest of
the page holds only values that the forum or the evaluator set.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from forum_actor.posts import MEASURED, NOTICE, UNVERIFIED, Post, sanitise_line

FIGURES = ("record_id", "method", "researcher", "tier", "domain", "accuracy", "pgr", "interval", "seeds", "n", "status")
"""Fields of an evaluator record that a post shows."""


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record summary that a post keeps, with names that researchers chose made safe."""
    kept: dict[str, Any] = {}
    for name in (*FIGURES, "sandbox_grade"):
        value = summary.get(name)
        if value is not None:
            kept[name] = sanitise_line(value)[:160] if isinstance(value, str) else value
    return kept


def when(at_us: int) -> str:
    """A Unix time in microseconds as `2026-01-31 12:00:00 UTC`."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def quote(text: str) -> str:
    """`text` with every line marked as quoted."""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines()) or ">"


def show(value: Any) -> str:
    """A figure for people: floats with three decimals, intervals in brackets, lists by comma."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(v) for v in value) + "]"
    return str(value)


def render(post: Post, nonce: str = "") -> str:
    """The page of one post in Markdown; a `nonce` that its author cannot know is put around the author's text."""
    head = [
        f"# {post.id}: {post.kind} by {post.author}",
        "",
        NOTICE,
        "",
        f"- time: {when(post.at_us)}",
        f"- mark: {post.mark}",
    ]
    if post.reply_to:
        head.append(f"- replies to: {post.reply_to}")
    if post.snapshot:
        head.append(f"- code snapshot: {post.snapshot}")
    if post.expires_us is not None:
        head.append(f"- claim expires: {when(post.expires_us)}")
    for record in post.records:
        head += ["", f"## Record {record.get('record_id', '?')} ({MEASURED})", ""]
        head += [f"- {name}: {show(record[name])}" for name in FIGURES[1:] if name in record]
    head += ["", f"## Text of {post.author} ({UNVERIFIED})", ""]
    text = [quote(post.title), ">", quote(post.body)]
    head += [f"begin {nonce}", *text, f"end {nonce}"] if nonce else text
    return "\n".join(head) + "\n"


def index_line(post: Post, file_name: str) -> str:
    """One line of the index of a synced forum."""
    records = f", records {', '.join(post.record_ids)}" if post.record_ids else ""
    return f"- {file_name}: {post.kind} by {post.author}{records}\n  > {post.title}"
