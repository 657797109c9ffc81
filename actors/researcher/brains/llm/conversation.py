"""The conversation with a model, rebuilt from the transcript before every call.

Promises:
- It is append-only: what was sent once is sent again, byte for byte, so that the endpoint finds it in its prompt cache;
  only a compaction begins anew.
- Every call of the model has its result, right after it and in order.
- Roles alternate, and no message is empty.

Entries are what a `Decision` keeps in `said`: messages of the user as they were sent; answers as `answers.clean` left
them; and `{"role": "summary", "content": text, "keep": n}`, which replaces all messages but the last n by a text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.researcher.brains.llm.answers import call_ids
from actors.researcher.brains.llm.wording import Block, result_block
from actors.researcher.types import ToolOutcome, ToolResult, Turn

NOT_RUN = ToolResult.refused(
    "not_run", "the answer was cut off, or held more calls than one turn may; this did not run"
)

_THOUGHTS = ("thinking", "redacted_thinking")


@dataclass
class Conversation:
    """Messages as the API takes them, and how many tokens they had when a model last read them."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    withheld: int = 0
    """Answers in a row, up to the last, that a safety filter withheld."""

    def copy(self) -> Conversation:
        """One that can be added to without changing this one; no message is ever changed in place."""
        return Conversation(list(self.messages), self.tokens, self.withheld)

    def add_turn(self, turn: Turn) -> None:
        """Append what was said in a turn."""
        for entry in turn.said:
            self.add(entry)

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry."""
        if entry["role"] == "summary":
            kept = self.messages[len(self.messages) - entry["keep"] :]
            self.messages = [{"role": "user", "content": [_text(entry["content"])]}, *kept]
            self.tokens = self.withheld = 0
        elif entry["role"] == "user":
            self._append("user", entry["content"])
        else:
            self.tokens = _tokens(entry["usage"])
            refused = entry["stop_reason"] == "refusal"
            self.withheld = self.withheld + 1 if refused else 0
            content = [] if refused else _sendable(entry["content"])
            if any(block.get("type") == "compaction" and block.get("content") for block in content):
                # What came before counts for nothing from here on; the opening stays, because a user speaks first.
                self.messages = self.messages[:1]
            if content:
                self._append("assistant", content)

    def _append(self, role: str, content: list[Block]) -> None:
        if self.messages and self.messages[-1]["role"] == role:
            content = [*self.messages.pop()["content"], *content]
        self.messages.append({"role": role, "content": content})

    def results(self, done: tuple[ToolOutcome, ...]) -> list[Block]:
        """Results for the calls that wait for one; `done` are those that were run, in order."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return []
        results = [item.result for item in done]
        ids = call_ids(self.messages[-1]["content"])
        padded = [*results, *[NOT_RUN] * (len(ids) - len(results))]
        return [result_block(one, result) for one, result in zip(ids, padded, strict=False)]

    @property
    def chars(self) -> int:
        """Characters of all messages."""
        return _chars(self.messages)

    def tail(self, most_chars: int) -> int:
        """How many of the last messages to keep beside a summary: as many as fit, from an answer on; at least one
        answer and what follows it. 0 when there is nothing older to summarise.
        """
        starts = [n for n, message in enumerate(self.messages) if message["role"] == "assistant"]
        if not starts:
            return 0
        fitting = [n for n in starts if _chars(self.messages[n:]) <= most_chars]
        return len(self.messages) - (fitting[0] if fitting else starts[-1])


def _text(words: str) -> Block:
    return {"type": "text", "text": words}


def _sendable(content: list[Block]) -> list[Block]:
    """The blocks that an endpoint takes back, without fields that are null: all but empty texts, and thoughts that were
    cut off, which have no signature or nothing after them.
    """
    blocks = [{name: value for name, value in block.items() if value is not None} for block in content]
    needed = {"text": "text", "thinking": "signature"}
    kept = [b for b in blocks if str(b.get(needed.get(str(b.get("type")), "type")) or "").strip()]
    while kept and kept[-1].get("type") in _THOUGHTS:
        kept.pop()
    return kept


def _tokens(usage: dict[str, Any]) -> int:
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    return sum(int(usage.get(name) or 0) for name in names)


def _chars(messages: list[dict[str, Any]]) -> int:
    return sum(len(str(block)) for message in messages for block in message["content"])
