"""What verification finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something broken: in whose journal, at which event (`None`: not at one event), and why."""

    store: str
    seq: int | None
    reason: str

    def __str__(self) -> str:
        where = self.store if self.seq is None else f"{self.store}, event {self.seq}"
        return f"{where}: {self.reason}"
