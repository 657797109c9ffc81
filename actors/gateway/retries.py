"""Failed attempts: what an endpoint's errors mean, and what follows on them. Pure.

An error status is not charged. An error in a stream that had begun is: its end is unknown.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
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


def backoff_seconds(failure: Failure, attempts: int, settings: Gateway, chance: random.Random) -> float:
    """Seconds for which a failure lets wait, the `attempts`-th of one call.

    They double with each attempt, with jitter between half of it and all of it, up to `longest_wait_seconds`; they are
    never fewer than the endpoint's own `retry-after`, up to `LONGEST_RETRY_AFTER_S`.
    """
    seconds = min(settings.longest_wait_seconds, FIRST_WAIT_S * GROWTH ** (attempts - 1))
    asked = min(failure.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S)
    return max(seconds * (0.5 + chance.random() / 2), asked)


def next_wait(failure: Failure, attempts: int, settings: Gateway, chance: random.Random) -> float | None:
    """Seconds to wait after `attempts` failed attempts of one call; `None` when that was the last."""
    if not failure.again or attempts >= settings.attempts:
        return None
    if (failure.retry_after_s or 0.0) > LONGEST_RETRY_AFTER_S:
        return None
    return backoff_seconds(failure, attempts, settings, chance)


MOST_TEXT = 500
_AGAIN = frozenset({408, 409, 425, 429, 499, 500, 502, 503, 504, 529})
_OF_STATUS: dict[int, Reason] = {
    401: Reason.BAD_KEY,
    402: Reason.NO_CREDIT,
    403: Reason.BAD_KEY,
    404: Reason.UNKNOWN_MODEL,
    413: Reason.TOO_LARGE,
}
_OF_TYPE: dict[str, Reason] = {
    "authentication_error": Reason.BAD_KEY,
    "permission_error": Reason.BAD_KEY,
    "billing_error": Reason.NO_CREDIT,
    "not_found_error": Reason.UNKNOWN_MODEL,
    "request_too_large": Reason.TOO_LARGE,
}
_AGAIN_TYPES = frozenset({"rate_limit_error", "overloaded_error", "api_error", "timeout_error"})
_THROTTLES = frozenset({"rate_limit_error", "overloaded_error"})
_NO_CREDIT = ("credit balance", "spend limit", "spending limit")
_TOO_LONG = ("prompt is too long", "context window", "context length", "context limit", "maximum context")


def failure_of_status(status: int, body: object, headers: Mapping[str, str], begun: bool) -> Failure:
    """The failure behind an error status, or behind an error event of a stream that had `begun`."""
    if 300 <= status < 400:
        to = headers.get("location", "nowhere").partition("?")[0][:MOST_TEXT]
        return Failure(
            Reason.UNAVAILABLE, f"{status}: the endpoint redirects to {to}, where no key is sent; see brain.base_url"
        )
    kind, text = _error_of(body)
    message = f"{status if not begun else 'in the stream'} {kind}: {text}"[:MOST_TEXT]
    if begun:
        return Failure(Reason.UNAVAILABLE, message, again=True, billed=True, throttled=kind in _THROTTLES)
    again = status in _AGAIN or status >= 500 or (status < 400 and kind in _AGAIN_TYPES)
    if again:
        throttled = status in (429, 529) or kind in _THROTTLES
        return Failure(
            Reason.UNAVAILABLE, message, again=True, throttled=throttled, retry_after_s=_retry_after(headers)
        )
    return Failure(_reason(status, kind, text), message)


def failure_of_connection(cause: str, billed: bool) -> Failure:
    """The failure of a connection; `billed` when the request may have arrived."""
    return Failure(Reason.UNAVAILABLE, f"the connection to the endpoint failed: {cause}", again=True, billed=billed)


def _reason(status: int, kind: str, text: str) -> Reason:
    words = text.lower()
    if any(phrase in words for phrase in _NO_CREDIT):
        return Reason.NO_CREDIT
    if status in (400, 413, 422) and any(phrase in words for phrase in _TOO_LONG):
        return Reason.CONTEXT_TOO_LONG
    return _OF_STATUS.get(status) or _OF_TYPE.get(kind) or Reason.BAD_REQUEST


def _error_of(body: object) -> tuple[str, str]:
    """Type and message of the vendor's error body; servers that imitate it may leave parts out."""
    error: Any = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "error", str(body or "")[:MOST_TEXT]
    return str(error.get("type") or "error"), str(error.get("message") or "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks for, given in seconds (a date is passed over)."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
