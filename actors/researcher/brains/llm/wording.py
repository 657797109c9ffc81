"""How the world is put into words for a language model: results of calls, and what is new at a turn.

Promises: every text is bounded; a text that another researcher wrote stands in lines that begin with `> `, under
its author's name, apart from the evaluator's figures, so that it can pass for nothing else.
"""

from __future__ import annotations

import json
from typing import Any

from actors.researcher.tools.clip import clip_text
from actors.researcher.types import ToolResult, TurnInput
from cluster.money import MS_PER_HOUR, format_usd
from forum_actor.posts import MEASURED, NOTICE, UNVERIFIED
from forum_actor.render import FIGURES, quote, show

RESULT_CHARS = 24_000
"""About 6,000 tokens: more of a result is seen on request, by an offset, a file or a narrower call."""
BODY_CHARS = 600
"""Of a new post; the whole stands in the workspace."""
SHORT = 160
Block = dict[str, Any]


def result_block(call_id: str, result: ToolResult) -> Block:
    """The `tool_result` block of a call."""
    text = clip_text(_result_text(result), RESULT_CHARS)
    content = [{"type": "text", "text": text}]
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, "is_error": not result.ok}


def _result_text(result: ToolResult) -> str:
    if result.ok:
        return plain_text(result.content) or "(nothing)"
    detail = f"\n{plain_text(result.content)}" if result.content else ""
    return f"Refused ({result.reason}): {result.message}{detail}"


def plain_text(content: dict[str, Any]) -> str:
    """Short values first, one a line; long texts after them, as they are."""
    short, long = [], []
    for name, value in content.items():
        if isinstance(value, str) and (len(value) > SHORT or "\n" in value):
            long.append(f"{name}:\n{value}")
        else:
            short.append(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return "\n".join([*short, *long])


def whats_new(turn: int, seen: TurnInput) -> str:
    """The text that opens a turn: what is left, what ended, what others posted, and a word of the loop."""
    parts = [f"Turn {turn}. {_left(seen)}"]
    if seen.running:
        parts.append(f"Still running: {', '.join(seen.running)}.")
    for news in seen.news:
        head = f"{news['run']} ({news['tool']} {json.dumps(news['args'], ensure_ascii=False)}) ended:"
        body = _result_text(ToolResult.from_dict(news["result"]))
        parts.append(f"{clip_text(head, BODY_CHARS)}\n{clip_text(body, RESULT_CHARS)}")
    if seen.posts:
        parts.append(f"New on the forum. {NOTICE}")
        parts += [_post(post) for post in seen.posts]
    if seen.note:
        parts.append(seen.note)
    return "\n\n".join(parts)


def _left(seen: TurnInput) -> str:
    left = seen.budget.get("left") or {}
    words = []
    if left.get("usd") is not None:
        words.append(format_usd(int(left["usd"])))
    if left.get("gpu_ms") is not None:
        words.append(f"{left['gpu_ms'] / MS_PER_HOUR:.3g} GPU-hours")
    if left.get("answers") is not None:
        words.append(f"{left['answers']} answers")
    if seen.seconds_left is not None:
        words.append(f"{max(0.0, seen.seconds_left) / 60:.1f} minutes")
    return f"You have left: {', '.join(words)}." if words else ""


def _post(post: dict[str, Any]) -> str:
    lines = [f"[{post.get('id')}] {post.get('kind')} by {post.get('author')}"]
    for record in post.get("records") or ():
        figures = ", ".join(f"{name} {show(record[name])}" for name in FIGURES if name in record)
        lines.append(f"{MEASURED}: {figures}")
    if post.get("snapshot"):
        lines.append(f"code: {post['snapshot']}")
    body = clip_text(str(post.get("body") or ""), BODY_CHARS)
    lines += [f"{UNVERIFIED}:", quote(str(post.get("title") or "")), *([quote(body)] if body else [])]
    return "\n".join(lines)
