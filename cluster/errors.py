"""The root of the project's own errors.

Every error that a caller may act on derives from `AarError`, so that a driver can show one clear line for
what the project foresaw and a traceback only for what it did not.
"""

from __future__ import annotations

from typing import Any


class AarError(Exception):
    """An error that the project foresaw; its text says what is wrong and what to do."""


class RefusedError(AarError):
    """A request that was refused for a reason the requester can act on (over budget, too large, malformed).

    `reason` is a short stable code, `detail` the numbers behind it.
    """

    def __init__(self, reason: str, message: str, detail: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.detail = detail or {}

    def __reduce__(self) -> tuple[type[RefusedError], tuple[str, str, dict[str, Any]]]:
        return (type(self), (self.reason, self.message, self.detail))
