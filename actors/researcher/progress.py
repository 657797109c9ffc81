"""What a researcher has achieved so far, counted from its history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from actors.researcher.types import ToolCall, ToolOutcome, ToolResult, Turn

POSTS = frozenset({"forum_post", "forum_claim"})


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of successful calls, failed ones, and the best score: a board entry before a DEV answer, then by PGR."""

    posts: int = 0
    pilots: int = 0
    submissions: int = 0
    refused: int = 0
    best: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def of(cls, history: Iterable[Turn]) -> Progress:
        """The progress of a history."""
        done = [item for turn in history for item in outcomes(turn)]
        good = [item for item in done if item.result.ok]
        scores = [score for score in map(_score, good) if score is not None]
        return cls(
            posts=sum(item.call.name in POSTS for item in good),
            pilots=sum(item.call.name == "run_pilot" for item in good),
            submissions=sum(item.call.name == "submit" for item in good),
            refused=len(done) - len(good),
            best=max(scores, key=lambda score: (score["tier"] == "board", score["pgr"]), default=None),
        )


def outcomes(turn: Turn) -> Iterator[ToolOutcome]:
    """How the calls of a turn ended, and the runs in the background of which it brought the news."""
    for news in turn.seen.news:
        yield ToolOutcome(ToolCall(news["tool"], news["args"]), ToolResult.from_dict(news["result"]))
    yield from (done for done in turn.done if done.result.content.get("state") != "started")


def _score(item: ToolOutcome) -> dict[str, Any] | None:
    if item.call.name != "submit":
        return None
    answer = item.result.content
    tier = str(answer.get("tier", item.call.args.get("tier", "")))
    if tier == "board" and not answer.get("new_best"):
        return None
    value = answer.get("pgr")
    if not isinstance(value, int | float) or value != value:
        return None
    name = str(item.call.args.get("name", ""))
    return {"name": name, "tier": tier, "pgr": float(value), "record_id": str(answer.get("record_id", ""))}
