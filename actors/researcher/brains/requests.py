"""The bodies of Messages calls: model, tools, system prompt, thinking, cache breakpoints, compaction.

Promise: whatever stands before the messages is the same in every request of a researcher, as is the way in which the
model thinks, because both belong to what the endpoint caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.researcher.brains.conversation import CACHE
from cluster.config import Brain
from cluster.errors import RefusedError

COMPACTION_BETA = "compact-2026-01-12"
COMPACTION_NEAR = 0.5
LOCAL_SLACK = 1.5
"""How far above `compact_at` a history may grow before it is summarised here although the endpoint compacts."""
INSTRUCTIONS = (
    "Keep what the researcher needs to go on: what it knows and how (record ids, figures), what it tried and how that "
    "went, what runs in the background, what it would do next. Its notebook is the file notebook.md in its workspace."
)


@dataclass
class Requests:
    """How one researcher calls its model. `plain`: the endpoint is not the vendor's and knows the basics alone."""

    settings: Brain
    system: str
    tools: list[dict[str, Any]]
    plain: bool = False
    compacts: bool = True
    """Whether the endpoint compacts; false once it said that it cannot."""

    @property
    def compact_at(self) -> int:
        """Input tokens at which older history goes."""
        return self.settings.compact_at

    @property
    def most_tokens(self) -> float:
        """Tokens above which the history is summarised here."""
        return self.compact_at if self.plain or not self.compacts else LOCAL_SLACK * self.compact_at

    def turn(self, messages: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        """A turn like any other; `tokens` are those that the history had at the last answer.

        Compaction is asked for once it may be near, because the worst case that is reserved is twice that of a call
        without it.
        """
        request = self._request(messages, self.settings.max_tokens)
        if not self.plain and self.compacts and tokens > COMPACTION_NEAR * self.compact_at:
            trigger = {"type": "input_tokens", "value": self.compact_at}
            edit = {"type": "compact_20260112", "trigger": trigger, "instructions": INSTRUCTIONS}
            request |= {"context_management": {"edits": [edit]}, "betas": [COMPACTION_BETA]}
        return request

    def last(self, messages: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        """A short answer after the same history: at most `tokens` beside what the model thinks."""
        thinking = self.settings.thinking_tokens
        extra = thinking if isinstance(thinking, int) and not self.plain else 0
        return self._request(messages, min(self.settings.max_tokens, tokens + extra))

    def alone(self, messages: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        """A short answer without history or thought, and with nothing to call but `forum_post`: as cheap as can be."""
        request = self._request(messages, min(self.settings.max_tokens, tokens))
        request["tools"] = [tool for tool in self.tools if tool["name"] == "forum_post"]
        left_out = ("thinking", "output_config") if request["tools"] else ("thinking", "output_config", "tools")
        return {name: value for name, value in request.items() if name not in left_out}

    def do_without(self, error: RefusedError) -> bool:
        """Whether a refusal says that the endpoint does not know compaction; from then on it is not asked for."""
        words = error.message.lower()
        if not self.compacts or self.plain or error.reason != "bad_request":
            return False
        if not any(word in words for word in ("context_management", "context management", "beta", "compact")):
            return False
        self.compacts = False
        return True

    def _request(self, messages: list[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
        cached = self.settings.cache and not self.plain
        system: dict[str, Any] = {"type": "text", "text": self.system}
        tools = list(self.tools)
        if cached:
            system["cache_control"] = CACHE
            tools[-1] = {**tools[-1], "cache_control": CACHE}
        else:
            messages = [_unmarked(message) for message in messages]
        request = {
            "model": self.settings.model,
            "max_tokens": max_tokens,
            "system": [system],
            "tools": tools,
            "messages": messages,
        }
        return request if self.plain else request | self._thought()

    def _thought(self) -> dict[str, Any]:
        thinking, effort = self.settings.thinking_tokens, self.settings.effort
        found: dict[str, Any] = {}
        if thinking == "adaptive":
            found["thinking"] = {"type": "adaptive"}
        elif thinking is not None:
            found["thinking"] = {"type": "enabled", "budget_tokens": thinking}
        if effort is not None:
            found["output_config"] = {"effort": effort}
        return found


def _unmarked(message: dict[str, Any]) -> dict[str, Any]:
    blocks = [{k: v for k, v in block.items() if k != "cache_control"} for block in message["content"]]
    return {"role": message["role"], "content": blocks}
