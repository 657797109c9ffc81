"""A researcher's transcript for people: what it saw, thought, said, called and got back, turn by turn.

Everything is taken from the stored turns; text that a model or a tool wrote stands in fences or quotes of its own, and
what in it would steer a terminal, reorder or hide is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from actors.researcher.tools.clip import clip_text
from actors.researcher.types import ToolOutcome, Turn
from cluster.money import format_usd
from cluster.text import escaped_json, lines, visible, visible_line

TOKENS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
FENCE = "````"


def markdown(turn: Turn, most_chars: int | None = None) -> str:
    """One turn as markdown; texts longer than `most_chars` keep head and tail, `None` keeps all."""
    return "\n\n".join(part for part in _parts(turn, most_chars) if part)


def json_line(turn: Turn) -> str:
    """One turn as a line of JSON: number, seen, said, done, ending. What reads it back gets every character."""
    return escaped_json(asdict(turn))


def charged(turn: Turn) -> int:
    """Micro-dollars that the model cost in a turn."""
    return sum(int(entry.get("charged") or 0) for entry in turn.said)


def tokens(turn: Turn) -> dict[str, int]:
    """Tokens of the model's calls in a turn, by kind."""
    usages = [entry.get("usage") or {} for entry in turn.said]
    return {name: sum(int(usage.get(name) or 0) for usage in usages) for name in TOKENS}


def _parts(turn: Turn, most: int | None) -> Iterator[str]:
    yield f"## Turn {turn.number}{_bill(turn)}"
    for post in turn.seen.posts:
        told = (post.get(name) for name in ("id", "kind", "author", "title"))
        number, kind, author, title = (visible_line(str(value)) for value in told)
        yield f"*New on the forum: {number}, {kind} by {author}:* {title}"
    for news in turn.seen.news:
        run, tool = visible_line(str(news["run"])), visible_line(str(news["tool"]))
        yield f"*{run} ({tool}) ended:*\n\n{_fenced(news['result'], most)}"
    for word in (turn.seen.note, turn.ending):
        yield f"*The campaign says:* {visible(word)}" if word else ""
    for entry in turn.said:
        if entry["role"] == "summary":
            yield f"*Older history was summarised:*\n\n{_quoted(entry['content'], most)}"
        elif entry["role"] == "assistant":
            yield from _answer(entry, most)
    for done in turn.done:
        yield _call(done, most)


def _bill(turn: Turn) -> str:
    count = tokens(turn)
    if not any(count.values()):
        return ""
    fed = count["input_tokens"] + count["cache_creation_input_tokens"] + count["cache_read_input_tokens"]
    share = f", {count['cache_read_input_tokens'] / fed:.0%} from the cache" if fed else ""
    return f" ({format_usd(charged(turn))}, {fed} tokens in{share}, {count['output_tokens']} out)"


def _answer(entry: dict[str, Any], most: int | None) -> Iterator[str]:
    for block in entry["content"]:
        kind = block.get("type")
        if kind == "thinking" and block.get("thinking"):
            yield f"*Thought:*\n\n{_quoted(block['thinking'], most)}"
        elif kind == "text" and block.get("text"):
            yield _quoted(block["text"], most)
        elif kind == "compaction" and block.get("content"):
            yield f"*The endpoint compacted older history:*\n\n{_quoted(block['content'], most)}"
    if entry.get("stop_reason") not in ("tool_use", "end_turn"):
        yield f"*Stopped:* {visible_line(str(entry.get('stop_reason')))}"


def _call(done: ToolOutcome, most: int | None) -> str:
    outcome = "ok" if done.result.ok else f"refused: {done.result.reason}: {done.result.message}"
    name, outcome = visible_line(done.call.name), visible_line(outcome)
    return f"**{name}** ({outcome})\n\n{_fenced(done.call.args, most)}\n\n{_fenced(done.result.content, most)}"


def _quoted(text: str, most: int | None) -> str:
    return "\n".join(f"> {line}".rstrip() for line in lines(visible(_clipped(text, most))))


def _fenced(value: dict[str, Any], most: int | None) -> str:
    """Data as lines in a fence: texts as they are, everything else as JSON."""
    told = [
        f"{name}: {_clipped(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False), most)}"
        for name, item in value.items()
    ]
    body = visible("\n".join(told)).replace(FENCE, "'" * len(FENCE))
    return f"{FENCE}\n{body}\n{FENCE}"


def _clipped(text: str, most: int | None) -> str:
    return text if most is None else clip_text(text, most)
