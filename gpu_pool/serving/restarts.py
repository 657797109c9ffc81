"""Whether a model server that failed is started again: a pure policy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`most` failures in a row are forgiven; one that served for `healthy_s` seconds begins a new row.

    The pause before a restart doubles from `pause_s` on.
    """

    most: int = 3
    healthy_s: float = 300.0
    pause_s: float = 1.0

    def in_row(self, before: int, served_s: float) -> int:
        """Failures in a row with the one that just happened, after `before` and `served_s` seconds of service."""
        return 1 if served_s >= self.healthy_s else before + 1

    def pause(self, in_row: int) -> float | None:
        """Seconds until the next start, or `None`: give up."""
        return None if in_row > self.most else float(self.pause_s * 2 ** (in_row - 1))
