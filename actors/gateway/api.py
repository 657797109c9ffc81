"""What the gateway answers. Imports neither ray nor the vendor's library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One answer of a model. `message` is the whole message as plain data (content, stop_reason, usage); a tool call
    whose input was no JSON object has the input `{"malformed_json": <its text>}`. `charged` is what its key cost in
    micro-dollars.
    """

    message: dict[str, Any]
    charged: int
