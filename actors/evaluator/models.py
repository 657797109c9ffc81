"""What a domain's scoring needs of its two models, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

Which = Literal["strong", "weak"]


class Models(Protocol):
    """The strong and the weak model of one domain, in the part of the node cache that sandboxes see read-only."""

    def folder(self, which: Which) -> Path:
        """Where the model lies once `model` has given it."""

    async def model(self, which: Which) -> Path:
        """The model's folder, made or fetched when the cache lacks it."""
