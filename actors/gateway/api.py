"""What a brain asks of the gateway, and why it may be refused. Imports neither ray nor the vendor's library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Refusal = Literal[
    "over_budget",
    "unknown_model",
    "bad_key",
    "no_credit",
    "context_too_long",
    "bad_request",
    "unavailable",
    "too_large",
    "lost",
    "not_recorded",
]
"""Reasons of a `RefusedError`:

- `over_budget`: the worst case of the call, or of the lease of its model's server, does not fit an account; detail
  `{account, dimension, left, asked}` in the ledger's units
- `unknown_model`: no price is known for it, or the endpoint does not know it
- `bad_key`: the endpoint refuses the key
- `no_credit`: the organisation's prepaid credit is used up
- `context_too_long`: the input does not fit the model's window
- `bad_request`: the endpoint or the gateway refuses the request as it is; asking again will not help
- `unavailable`: every attempt failed, or the recording cannot be read
- `too_large`: the request is larger than the endpoint takes
- `lost`: as many answers under this key as may be were paid for and lost on the way; this key is not tried any more,
  another is; detail `{lost, charged}`, in micro-dollars
- `not_recorded`: the campaign that is replayed never got an answer to this call; asking again will not help
"""


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One answer of a model. `message` is the whole message as plain data (content, stop_reason, usage); a tool call
    whose input was no JSON object has the input `{"malformed_json": <its text>}`. `charged` is what its key cost in
    micro-dollars.
    """

    message: dict[str, Any]
    charged: int
