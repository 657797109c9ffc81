"""What others may know of a model server: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Literal

EndReason = Literal["idle", "stopped", "time_over", "failed"]


class Phase(Enum):
    """Where a server stands; only a `ready` one takes requests, only an `ended` one never will again."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ServerState:
    """`base_url` and `token` reach the server and stay the same as long as it lives, whatever restarts behind them.

    `starts` counts processes so far, `ready_s` is how long the last start took (seconds), `fault` why the last process
    ended. The token opens nothing but this server, and ends with it.
    """

    phase: Phase
    base_url: str
    token: str
    model: str
    starts: int = 0
    ready_s: float | None = None
    fault: str = ""

    def __repr__(self) -> str:
        return f"ServerState({self.phase.value}, {self.base_url}, starts={self.starts}, fault={self.fault!r})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "phase": self.phase.value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ServerState:
        """The inverse of `to_dict`."""
        return cls(**{**data, "phase": Phase(data["phase"])})


@dataclass(frozen=True, slots=True)
class ServerEnd:
    """How a server's life ended, and what it did: connections taken, bytes of answers, processes started."""

    reason: EndReason
    fault: str
    connections: int
    answer_bytes: int
    starts: int
