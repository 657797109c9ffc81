"""What to do when a brain cannot decide: pure functions of the error and of how often it came.

A service that does not answer is waited for, ever longer; a fault that only a person can repair (a key, an account
without credit, a model nobody knows) is waited for, too, because nothing is lost by it; a budget that others or the
researcher's own runs hold for now is waited for a while; any other error ends the work after a few attempts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cluster.errors import RefusedError

BACKOFF_S = 1.0
ATTEMPTS = 5
"""Of an error that nothing is known about."""
HELD_ATTEMPTS = 30
"""Of a budget that is held, not spent."""
SERVICE = ("unavailable",)
OPERATOR = ("bad_key", "no_credit", "unknown_model")
LONGEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """Wait `seconds` and ask again; or let the brain have its last turn; or give up. `text` says why, for people."""

    action: Literal["wait", "last", "give_up"]
    text: str
    seconds: float = 0.0


def next_step(error: Exception, attempt: int, running: bool) -> Step:
    """What follows on `error`, the `attempt`-th in a row (from 0); `running`: whether own runs are going on."""
    reason = error.reason if isinstance(error, RefusedError) else ""
    wait = min(LONGEST_S, BACKOFF_S * 2 ** min(attempt, 10))
    if reason in SERVICE:
        return Step("wait", f"the model does not answer: {error}", wait)
    if reason in OPERATOR:
        return Step("wait", f"needs a person: {error}", LONGEST_S)
    if reason == "over_budget" and isinstance(error, RefusedError):
        if attempt < HELD_ATTEMPTS and (running or _held_by_others(error.detail)):
            return Step("wait", f"the money is held by what runs: {error}", wait)
        return Step("last", str(error))
    if attempt + 1 < ATTEMPTS:
        return Step("wait", f"cannot decide: {error}", wait)
    return Step("give_up", str(error))


def _held_by_others(detail: dict[str, Any]) -> bool:
    """Whether the campaign has the money and others have reserved it."""
    cap, spent, asked = (detail.get(name) for name in ("cap", "spent", "asked"))
    known = isinstance(cap, int) and isinstance(spent, int) and isinstance(asked, int)
    return detail.get("account") == "campaign" and known and spent + asked <= cap  # type: ignore[operator]
