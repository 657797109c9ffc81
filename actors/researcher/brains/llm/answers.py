"""What an answer of a model means: which calls it makes, and what has to happen because of how it stopped.

Pure. Whatever a model says becomes calls that the tools can refuse; nothing of it raises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from actors.researcher.types import ToolCall
from cluster.wire import WireError, pack

NOTE_CHARS = 200


class Verdict(Enum):
    """What follows on an answer."""

    ACT = "act"
    """Its calls are run; without any it was an empty turn."""
    GO_ON = "go on"
    """It paused: it is sent back as it is."""
    CUT = "cut"
    """It was cut off before it called anything: the model is told, and asked again."""
    FULL = "full"
    """The window of the model is full: older history has to go first."""
    WITHHELD = "withheld"
    """A safety filter ended it: it is not sent back."""


_VERDICTS = {
    "pause_turn": Verdict.GO_ON,
    "compaction": Verdict.GO_ON,
    "max_tokens": Verdict.CUT,
    "model_context_window_exceeded": Verdict.FULL,
    "refusal": Verdict.WITHHELD,
}
"""By `stop_reason`; `tool_use`, `end_turn`, `stop_sequence` and whatever nobody has heard of are acted upon."""
_CUT_OFF = ("max_tokens", "model_context_window_exceeded")


@dataclass(frozen=True, slots=True)
class Answer:
    """The calls of an answer in order, and what follows."""

    calls: tuple[ToolCall, ...]
    verdict: Verdict


def read(message: dict[str, Any]) -> Answer:
    """The meaning of a message (`content`, `stop_reason`).

    When it was cut off, its last block is: a call in it would run with half of its arguments, and is dropped.
    """
    reason = message.get("stop_reason")
    blocks = message["content"]
    verdict = _VERDICTS.get(str(reason), Verdict.ACT)
    if verdict is Verdict.WITHHELD:
        return Answer((), verdict)
    whole = blocks[:-1] if reason in _CUT_OFF else blocks
    said = " ".join(text_of(message).split())
    calls = tuple(_call(block, said) for block in whole if block.get("type") == "tool_use")
    return Answer(calls, Verdict.ACT if calls else verdict)


def call_ids(content: list[dict[str, Any]]) -> list[str]:
    """The ids of the calls in a message, in order, those that were cut off too: each needs a result."""
    return [str(block.get("id")) for block in content if block.get("type") == "tool_use"]


def text_of(message: dict[str, Any]) -> str:
    """The text of a message, without thoughts and calls."""
    return "\n".join(str(b.get("text", "")) for b in message["content"] if b.get("type") == "text").strip()


def clean(message: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a message: `role`, `content`, `stop_reason`, `usage`, `model`, all of it valid Unicode."""
    content = message.get("content")
    kept = {
        "role": "assistant",
        "content": [block for block in content if isinstance(block, dict)] if isinstance(content, list) else [],
        "stop_reason": message.get("stop_reason"),
        "usage": message.get("usage") or {},
        "model": message.get("model"),
    }
    text = json.dumps(kept, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        mended: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
        return mended
    return kept


def _call(block: dict[str, Any], said: str) -> ToolCall:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        arguments = {"arguments": arguments}
    try:
        pack(arguments)
    except WireError as error:
        arguments = {"unreadable": str(error)[:NOTE_CHARS]}
    return ToolCall(str(block.get("name") or "")[:100], arguments, said[:NOTE_CHARS])
