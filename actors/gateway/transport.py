"""Where answers come from: the contract that the vendor's endpoint, a recording and a simulation keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from actors.gateway.recorder import Parts
from actors.gateway.request import Body

Begun = Callable[[dict[str, Any]], None]
"""Told once, with the usage that opens an answer: from then on the input side of the bill is known."""


class Transport(Protocol):
    """One attempt at one call."""

    async def send(self, key: str, body: Body, parts: Parts, begun: Begun) -> dict[str, Any]:
        """The whole message as plain data. Raises `AttemptFailedError`; cancelled, it leaves the end unknown."""

    def status(self) -> dict[str, Any]:
        """What a person may want to know of it; no secrets."""

    async def close(self) -> None:
        """Let connections go; to close it again changes nothing."""
