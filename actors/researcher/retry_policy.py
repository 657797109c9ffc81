"""What to do when a brain cannot decide: pure functions of the error and of how often it came.

A service that does not answer is waited for, ever longer; a fault that only a person can repair (a key,
an account without credit, a model nobody knows) is waited for, too, because nothing is lost by it; a budget that others
or the researcher's own runs hold for now is waited for a while; an answer that a replay lacks ends the work at once,
any other refusal after a few attempts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.errors import RefusedError
from cluster.names import CAMPAIGN

BACKOFF_S = 1.0
ATTEMPTS = 5
"""Of a refusal that nothing is known about."""
HELD_BY_OWN_RUNS, HELD_BY_OTHERS = 60, 8
"""Attempts while own runs hold the money, which comes back when they end; and while the campaign has none left, which
others may have reserved or spent for good."""
SERVICE = ("unavailable",)
FINAL = ("not_recorded",)
OPERATOR = ("bad_key", "no_credit", "unknown_model")
LONGEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """Wait `seconds` and ask again; or let the brain have its last turn; or give up. `text` says why, for people."""

    action: Literal["wait", "last", "give_up"]
    text: str
    seconds: float = 0.0


def reason_of(error: Exception) -> str:
    """Why something was refused; "" of an error that is no refusal."""
    return error.reason if isinstance(error, RefusedError) else ""


def next_step(error: Exception, attempt: int, running: bool) -> Step:
    """What follows on `error`, the `attempt`-th for its reason (from 0); `running`: whether own runs are going on."""
    reason = reason_of(error)
    wait = min(LONGEST_S, BACKOFF_S * 2 ** min(attempt, 10))
    if not isinstance(error, RefusedError):
        return Step("wait", f"a service of the campaign does not answer: {error}", wait)
    if reason in SERVICE:
        return Step("wait", f"the model does not answer: {error}", wait)
    if reason in FINAL:
        return Step("give_up", str(error))
    if reason in OPERATOR:
        return Step("wait", f"needs a person: {error}", LONGEST_S)
    if reason == "over_budget":
        others = error.detail.get("account") == CAMPAIGN and attempt < HELD_BY_OTHERS
        if others or (running and attempt < HELD_BY_OWN_RUNS):
            return Step("wait", f"the money is held: {error}", wait)
        return Step("last", str(error))
    if attempt + 1 < ATTEMPTS:
        return Step("wait", f"cannot decide: {error}", wait)
    return Step("give_up", str(error))
