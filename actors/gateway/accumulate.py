"""A message put together from the events of its stream, as plain data. Pure.

Why not the client library's own accumulation: it raises on a tool call whose input is not JSON, and the whole answer
would be lost, which is paid all the same; and it parses the input anew with every piece. Here the input is parsed once,
at its end; one that is no JSON object becomes `{"malformed_json": <the text>}`, for the brain to tell its model.
"""

from __future__ import annotations

import json
from typing import Any

MALFORMED = "malformed_json"
_JOINED = {"text_delta": "text", "thinking_delta": "thinking"}


class Accumulator:
    """Takes the events of one stream in order. What it does not know it passes over."""

    def __init__(self) -> None:
        self.message: dict[str, Any] | None = None
        self.complete = False
        self._inputs: dict[int, list[str]] = {}

    def add(self, event: dict[str, Any]) -> None:
        """One event. Raises `ValueError` when it does not fit what came before."""
        kind = event.get("type")
        if kind == "message_start":
            self.message = {**event["message"], "content": []}
        elif kind == "message_stop":
            self.complete = self.message is not None
        elif kind in ("content_block_start", "content_block_delta", "content_block_stop", "message_delta"):
            if self.message is None:
                raise ValueError(f"{kind} before message_start")
            getattr(self, f"_{kind}")(self.message, event)

    def _content_block_start(self, message: dict[str, Any], event: dict[str, Any]) -> None:
        message["content"].append(dict(event["content_block"]))

    def _content_block_delta(self, message: dict[str, Any], event: dict[str, Any]) -> None:
        block, delta = self._block(message, event), event["delta"]
        kind = delta.get("type")
        if kind in _JOINED:
            name = _JOINED[kind]
            block[name] = (block.get(name) or "") + delta[name]
        elif kind == "input_json_delta":
            self._inputs.setdefault(event["index"], []).append(delta["partial_json"])
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        else:
            block.update({name: value for name, value in delta.items() if name != "type"})

    def _content_block_stop(self, message: dict[str, Any], event: dict[str, Any]) -> None:
        text = "".join(self._inputs.pop(event["index"], []))
        if text:
            self._block(message, event)["input"] = parse_input(text)

    @staticmethod
    def _block(message: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        index = event["index"]
        if not isinstance(index, int) or not 0 <= index < len(message["content"]):
            raise ValueError(f"no content block {index}")
        block: dict[str, Any] = message["content"][index]
        return block

    @staticmethod
    def _message_delta(message: dict[str, Any], event: dict[str, Any]) -> None:
        message.update({name: value for name, value in event["delta"].items() if value is not None})
        told = {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
        message["usage"] = {**(message.get("usage") or {}), **told}
        if event.get("context_management") is not None:
            message["context_management"] = event["context_management"]


def parse_input(text: str) -> dict[str, Any]:
    """The arguments of a tool call, or `{"malformed_json": text}`."""
    try:
        value = json.loads(text)
    except ValueError:
        return {MALFORMED: text}
    return value if isinstance(value, dict) else {MALFORMED: text}
