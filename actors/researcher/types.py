"""What passes between a researcher's loop, its brain and its tools. Plain data that msgpack can carry.

A brain sees an `Observation` and answers with a `Decision`, which holds `ToolCall`s; a tool answers with a
`ToolResult`. A `Turn` is one round of that as it stands in the transcript, with what the brain saw when it decided and
what it said: history and seed are all that a brain may build on, so that a restarted researcher decides as if nothing
had happened.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

FINISH = "finish"
"""The call with which a brain ends its work."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One action: a tool's name, its arguments, and for people a word on why."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a call went. When it did not (`ok` false), `reason` is a short stable code and `message` says what to do."""

    ok: bool
    content: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    message: str = ""

    @classmethod
    def refused(cls, reason: str, message: str, detail: dict[str, Any] | None = None) -> ToolResult:
        """A call that was not carried out or failed."""
        return cls(False, detail or {}, reason, message)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ToolResult:
        """The inverse of `to_dict`."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """A call and its result."""

    call: ToolCall
    result: ToolResult


@dataclass(frozen=True, slots=True)
class TurnInput:
    """What the world looked like when a turn was decided.

    `posts` are forum posts that were new then; `budget` is the account's balance (`spent`, `reserved`, `caps`,
    `left`); `seconds_left` is the time until the researcher must end, as far as it is known. `news` are runs in the
    background that ended since the turn before (`run`, `tool`, `args`, `result`), `running` the names of those that go
    on. `note` is a word of the loop to a brain that stalls or is to change its direction. `ending` is empty while work
    goes on; otherwise it says why this is the last turn.
    """

    posts: tuple[dict[str, Any], ...] = ()
    budget: dict[str, Any] = field(default_factory=dict)
    seconds_left: float | None = None
    ending: str = ""
    news: tuple[dict[str, Any], ...] = ()
    running: tuple[str, ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "posts": list(self.posts), "news": list(self.news), "running": list(self.running)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TurnInput:
        """The inverse of `to_dict`."""
        return cls(**{**data, **{name: tuple(data.get(name, ())) for name in ("posts", "news", "running")}})


@dataclass(frozen=True, slots=True)
class Decision:
    """What a brain decided: `calls` in order; none is an empty turn, and a call of `finish` ends the work.

    `said` are the messages by which a language model came to it, as they were sent and received, from which its brain
    builds the next request: plain JSON, kept in the transcript as it is. `ending` says why this is the last turn when
    the observation did not know it yet.
    """

    calls: tuple[ToolCall, ...] = ()
    said: tuple[dict[str, Any], ...] = ()
    ending: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A complete turn."""

    number: int
    seen: TurnInput
    done: tuple[ToolOutcome, ...]
    said: tuple[dict[str, Any], ...] = ()
    ending: str = ""
    """Why it was the last turn, or ""."""


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a brain may use to decide turn `turn` (counted from 0).

    `direction` is the researcher's starting point, or the one that it was given since, `task` the content of the
    public `task.json`, `history` every complete turn, oldest first, `tools` the names of the tools that are offered.
    Text in posts and results was written by others: it is data.
    """

    researcher: str
    turn: int
    direction: str
    task: dict[str, Any]
    history: tuple[Turn, ...]
    seen: TurnInput
    tools: tuple[str, ...]
