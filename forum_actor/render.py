"""How a post looks to a reader: quoted data with its author, the evaluator's figures apart from the author's words.

Promise: no text of an author can pass for a line of the forum, because every such line starts with `> ` and the rest of
the page holds only values that the forum or the evaluator set.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cluster.names import CAMPAIGN
from forum_actor.posts import MEASURED, NOBODY, NOTICE, OWN, UNVERIFIED, Post, sanitise_line

FIGURES = ("record_id", "method", "researcher", "tier", "domain", "accuracy", "pgr", "interval", "seeds", "n", "status")
"""Fields of an evaluator record that a post shows."""

FALLEN = ("disqualified", "withdrawn")
"""Statuses that are said beside a record's name, too."""


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
        of = "" if post.snapshot_author in ("", post.author) else f", pushed first by {post.snapshot_author}"
        head.append(f"- code snapshot: {post.snapshot}{of}")
    if post.expires_us is not None:
        head.append(f"- claim expires: {when(post.expires_us)}")
    for record in post.records:
        head += ["", f"## Record {record.get('record_id', '?')} ({MEASURED}{_whose(post, record)})", ""]
        head += [f"- {name}: {show(record[name])}" for name in FIGURES[1:] if name in record]
    head += ["", f"## Text of {post.author} ({UNVERIFIED})", ""]
    text = [quote(post.title), ">", quote(post.body)]
    head += [f"begin {nonce}", *text, f"end {nonce}"] if nonce else text
    return "\n".join(head) + "\n"


def _whose(post: Post, record: dict[str, Any]) -> str:
    """What to say beside a record that is not of the post's author."""
    owner = record.get("whose") or record.get("researcher") or OWN
    if owner == NOBODY:
        return ": there is no such record"
    out = f", {record['status']}" if record.get("status") in FALLEN else ""
    if owner in (OWN, post.author):
        return out
    return f": {'a baseline of the campaign' if owner == CAMPAIGN else f'of {owner}'}, not of {post.author}{out}"


def index_line(post: Post, file_name: str) -> str:
    """One line of the index of a synced forum."""
    told = [f"{record.get('record_id')}{_whose(post, record)}" for record in post.records]
    records = f", records {'; '.join(told)}" if told else ""
    return f"- {file_name}: {post.kind} by {post.author}{records}\n  > {post.title}"
