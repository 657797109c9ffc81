"""The bodies of Messages calls: model, tools, system prompt, thinking, cache breakpoints, compaction.

Promise: whatever stands before the messages is the same in every request of a researcher, as is the way in which the
model thinks, because both belong to what the endpoint caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.config import Brain
from cluster.errors import RefusedError

CACHE = {"type": "ephemeral", "ttl": "1h"}
"""An hour: a researcher waits for runs longer than the usual five minutes, and to write the whole history again costs
more than to write each new part of it at twice the price of input instead of 1.25 times."""
MARKED_MESSAGES = 2
"""The last message, and the one that the call before ended with: the endpoint looks back only so far."""
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
    """How one researcher calls its model. Only the vendor's endpoint (not `settings.plain`) is asked for more than the
    basics.
    """

    settings: Brain
    system: str
    tools: list[dict[str, Any]]
    compacts: bool = True
    """True if the endpoint compacts; false once it said that it cannot."""

    @property
    def compact_at(self) -> int:
        """Input tokens at which older history goes."""
        return self.settings.compact_at

    @property
    def most_tokens(self) -> float:
        """Tokens above which the history is summarised here."""
        return self.compact_at if self.settings.plain or not self.compacts else LOCAL_SLACK * self.compact_at

    def turn(self, messages: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        """A turn like any other; `tokens` are those that the history had at the last answer.

        Compaction is asked for once it may be near, because the worst case that is reserved is twice that of a call
        without it.
        """
        request = self._request(messages, self.settings.max_tokens)
        near = not self.settings.plain and self.compacts and tokens > COMPACTION_NEAR * self.compact_at
        return request | self._compaction() if near else request

    def last(self, messages: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        """A short answer after the same history: at most `tokens` beside what the model thinks."""
        thinking = self.settings.thinking_tokens
        extra = thinking if isinstance(thinking, int) and not self.settings.plain else 0
        return self._request(messages, min(self.settings.max_tokens, tokens + extra))

    def alone(self, messages: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        """A short answer without history or thought, and with nothing to call but `forum_post`: as cheap as can be."""
        request = self._bare(messages, min(self.settings.max_tokens, tokens))
        tools = [tool for tool in self.tools if tool["name"] == "forum_post"]
        return {**request, "tools": tools} if tools else {k: v for k, v in request.items() if k != "tools"}

    def gives_up_compaction(self, error: RefusedError) -> bool:
        """Ask for no more compaction if a refusal says that the endpoint knows none; return whether it did."""
        words = error.message.lower()
        if not self.compacts or self.settings.plain or error.reason != "bad_request":
            return False
        if not any(word in words for word in ("context_management", "context management", "beta", "compact")):
            return False
        self.compacts = False
        return True

    def _compaction(self) -> dict[str, Any]:
        trigger = {"type": "input_tokens", "value": self.compact_at}
        edit = {"type": "compact_20260112", "trigger": trigger, "instructions": INSTRUCTIONS}
        return {"context_management": {"edits": [edit]}, "betas": [COMPACTION_BETA]}

    def _request(self, messages: list[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
        """The endpoint reads a history that it compacted before only from a request that asks for compaction."""
        request = self._bare(messages, max_tokens)
        if holds_compaction(messages):
            request |= self._compaction()
        if self.settings.caches:
            request |= {"system": _marked(request["system"]), "tools": _marked(request["tools"])}
            request["messages"] = _with_breakpoints(messages)
        return request if self.settings.plain else request | self._thought()

    def _bare(self, messages: list[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "max_tokens": max_tokens,
            "system": [{"type": "text", "text": self.system}],
            "tools": self.tools,
            "messages": messages,
        }

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


def holds_compaction(messages: list[dict[str, Any]]) -> bool:
    """Return True if the endpoint's own summary stands in the messages."""
    return any(block.get("type") == "compaction" for message in messages for block in message["content"])


def without_compaction(request: dict[str, Any]) -> dict[str, Any]:
    """The same for an endpoint that knows none: a summary that another made is text."""
    messages = [{**m, "content": [_as_text(block) for block in m["content"]]} for m in request["messages"]]
    bare = {name: value for name, value in request.items() if name not in ("context_management", "betas")}
    return {**bare, "messages": messages}


def _as_text(block: dict[str, Any]) -> dict[str, Any]:
    if block.get("type") != "compaction":
        return block
    return {"type": "text", "text": f"Summary of what came before:\n\n{block.get('content') or 'none'}"}


def _with_breakpoints(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with a breakpoint at the end of the last ones of the user."""
    users = [n for n, message in enumerate(messages) if message["role"] == "user"]
    marked = set(users[-MARKED_MESSAGES:])
    return [{**m, "content": _marked(m["content"])} if n in marked else m for n, m in enumerate(messages)]


def _marked(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks with a breakpoint at their end; no block is changed in place."""
    *rest, last = blocks
    return [*rest, {**last, "cache_control": CACHE}]
