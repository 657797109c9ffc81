"""What to do after a failed attempt. Pure: a failure and the number of attempts give a decision."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from cluster.config import Gateway
from cluster.errors import AarError, Reason

FIRST_WAIT_S = 1.0
GROWTH = 2.0
LONGEST_RETRY_AFTER_S = 900.0
"""An endpoint that asks for a longer pause than this is not coming back for this call; no pause is longer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt gave no answer.

    `reason` is what the caller is told in the end. `again`: another attempt may succeed. `billed`: the vendor may
    charge for the attempt, since the request was taken and its end is not known. `throttled`: the endpoint wants fewer
    calls from everybody. `detail` goes to the caller with the refusal.
    """

    reason: Reason
    message: str
    again: bool = False
    billed: bool = False
    throttled: bool = False
    retry_after_s: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


class AttemptFailedError(AarError):
    """A transport's way to say that there is no answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after so many seconds."""

    seconds: float


def pause(failure: Failure, attempts: int, settings: Gateway, chance: random.Random) -> float:
    """Seconds for which a failure lets wait, the `attempts`-th of one call.

    They double with each attempt, with jitter between half of it and all of it, up to `longest_wait_seconds`; they are
    never fewer than the endpoint's own `retry-after`, up to `LONGEST_RETRY_AFTER_S`.
    """
    seconds = min(settings.longest_wait_seconds, FIRST_WAIT_S * GROWTH ** (attempts - 1))
    asked = min(failure.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S)
    return max(seconds * (0.5 + chance.random() / 2), asked)


def after(failure: Failure, attempts: int, settings: Gateway, chance: random.Random) -> Wait | None:
    """What follows `attempts` failed attempts of one call: its `pause`, or `None` when that was the last."""
    if not failure.again or attempts >= settings.attempts:
        return None
    if (failure.retry_after_s or 0.0) > LONGEST_RETRY_AFTER_S:
        return None
    return Wait(pause(failure, attempts, settings, chance))
