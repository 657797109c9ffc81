"""What a model costs: dollars per million tokens of each kind, and the table that is shipped.

The shipped prices are those that the vendor listed when this was written. They change: whoever runs a campaign
compares them with the vendor's page and overrides `gateway.prices` where they differ.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _exact(value: Any) -> Any:
    """A written number as the decimal that was written; `dump_config` writes prices as text, to lose no digit."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value, re.ASCII):
        return Decimal(value)
    return Decimal(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else value


Dollars = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=100_000, decimal_places=6)]
"""Dollars per million tokens; six decimals, so that a price of one token is a whole number of 10^-12 dollars."""


class Price(BaseModel):
    """Prices of one model, dollars per million tokens."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    input: Dollars = Field(description="input that is neither written to nor read from the cache")
    output: Dollars = Field(description="output, thinking included")
    cache_write_5m: Dollars = Field(description="input written to the cache for five minutes")
    cache_write_1h: Dollars = Field(description="input written to the cache for an hour")
    cache_read: Dollars = Field(description="input read from the cache")


def _listed(dollars_in: str, dollars_out: str) -> dict[str, Any]:
    """A price in the vendor's usual ratios: cache writes cost 1.25 and 2 times the input, reads a tenth of it."""
    base = Decimal(dollars_in)
    return {
        "input": base,
        "output": Decimal(dollars_out),
        "cache_write_5m": base * Decimal("1.25"),
        "cache_write_1h": base * 2,
        "cache_read": base / 10,
    }


_OPUS, _SONNET, _HAIKU = _listed("5", "25"), _listed("3", "15"), _listed("1", "5")
SHIPPED_PRICES: dict[str, dict[str, Any]] = {
    "claude-opus-4-6": _OPUS,
    "claude-opus-4-5": _OPUS,
    "claude-opus-4-5-20251101": _OPUS,
    "claude-sonnet-4-6": _SONNET,
    "claude-sonnet-4-5": _SONNET,
    "claude-sonnet-4-5-20250929": _SONNET,
    "claude-haiku-4-5": _HAIKU,
    "claude-haiku-4-5-20251001": _HAIKU,
}
"""By the exact name of the model; another name is another model and needs a price of its own."""
FREE: dict[str, Any] = _listed("0", "0")
"""A local model is paid by the GPU-hour."""
