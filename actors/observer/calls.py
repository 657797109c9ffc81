"""What the calls of models came to, from the gateway's journal: tokens by kind, dollars, cache, time of answers.

An attempt whose end stayed unknown is charged at the most that it can have cost: it counts as `lost`, with the tokens
that it was charged for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.gateway.pricing import Tokens
from actors.observer.run_data import RunData
from cluster.journal import Event
from cluster.money import MICRO

ANSWERED, LOST = "call_answered", "attempt_lost"


@dataclass(slots=True)
class Calls:
    """Calls of one account or of all: `usd` in micro-dollars, `seconds` of each answer."""

    answered: int = 0
    lost: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    usd: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Count one event of the gateway. Raises `KeyError`, `TypeError`, `ValueError` when it lacks what it needs."""
        self.tokens = self.tokens + Tokens.from_dict(event.payload["tokens"])
        self.usd += int(event.payload["usd"])
        if event.kind == LOST:
            self.lost += 1
        else:
            self.answered += 1
            self.seconds.append(float(event.payload["seconds"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; shares and times are `None` without a call."""
        tokens = self.tokens
        return {
            "answered": self.answered,
            "lost": self.lost,
            "input": tokens.input,
            "cache_write": tokens.cache_write_5m + tokens.cache_write_1h,
            "cache_read": tokens.cache_read,
            "output": tokens.output,
            "dollars": self.usd / MICRO,
            "dollars_micro": self.usd,
            "cache_hit_share": tokens.cache_read / tokens.prompt if tokens.prompt else None,
            "seconds_p50": quantile(self.seconds, 0.5),
            "seconds_p90": quantile(self.seconds, 0.9),
        }


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all do not exceed (nearest rank); `None` of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def model_calls(run: RunData, team: Sequence[str]) -> dict[str, Any]:
    """`researchers` (a row for each of `team`, and for whoever else called), `total`, and the first and last `events`.

    An event that lacks what it needs is passed over: verification names it.
    """
    rows: dict[str, Calls] = defaultdict(Calls, {name: Calls() for name in team})
    total, seen = Calls(), list[int]()
    for event in run.events("gateway", ANSWERED, LOST):
        if _whole(event.payload):
            rows[str(event.payload["researcher"])].add(event)
            total.add(event)
            seen.append(event.seq)
    return {
        "researchers": [{"id": name, **calls.to_dict()} for name, calls in rows.items()],
        "total": total.to_dict(),
        "events": [seen[0], seen[-1]] if seen else None,
    }


def _whole(payload: Mapping[str, Any]) -> bool:
    try:
        Tokens.from_dict(payload["tokens"])
        int(payload["usd"])
        float(payload.get("seconds", 0.0))
    except (KeyError, TypeError, ValueError):
        return False
    return "researcher" in payload
