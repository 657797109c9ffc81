"""What verification finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """Something broken: in whose journal, at which event (`None`: not at one event), and why."""

    store: str
    seq: int | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `text` is the whole of it in one line."""
        return {"store": self.store, "seq": self.seq, "reason": self.reason, "text": str(self)}

    def __str__(self) -> str:
        where = self.store if self.seq is None else f"{self.store}, event {self.seq}"
        return f"{where}: {self.reason}"
