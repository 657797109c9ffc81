"""What a call costs, in whole micro-dollars rounded up. Pure.

Tokens are counted by kind, because each kind has its own price. Prices are whole numbers of 10^-12 dollars per token,
so that a sum is exact until the one rounding at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cluster.config import CampaignConfig, ConfigError, Price
from cluster.config.prices import FREE

PICO_PER_MICRO = 1_000_000
KINDS = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one call by kind; the kinds do not overlap."""

    input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*(getattr(self, kind) + getattr(other, kind) for kind in KINDS))

    @property
    def prompt(self) -> int:
        """Input of every kind."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read

    def to_dict(self) -> dict[str, int]:
        """Plain data."""
        return {kind: getattr(self, kind) for kind in KINDS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tokens:
        """The inverse of `to_dict`."""
        return cls(**{f.name: int(data[f.name]) for f in fields(cls)})


def tokens_of(usage: Mapping[str, Any], long_cache: bool = False) -> Tokens:
    """The tokens of a message's `usage`.

    Compaction by the endpoint stands in `iterations` beside the message's own tokens and is added. Cache writes whose
    duration the usage does not tell lasted five minutes, or an hour if the request asked for an hour anywhere
    (`long_cache`).
    """
    total = _tokens(usage, long_cache)
    for entry in usage.get("iterations") or ():
        if entry.get("type") == "compaction":
            total = total + _tokens(entry, long_cache)
    return total


PLAIN: dict[str, tuple[object, ...]] = {
    "service_tier": (None, "standard"),
    "speed": (None, "standard"),
    "inference_geo": (None, "", "global", "not_available"),
}
"""Values of a usage's fields at which a token has the price of the table."""
PRICED_ITERATIONS = ("message", "compaction")


def billed(message: Mapping[str, Any], long_cache: bool = False) -> Tokens | None:
    """As `tokens_of` a whole message; `None` when its usage is missing or lacks a side, so that it tells no bill."""
    tokens = tokens_of(message.get("usage") or {}, long_cache)
    told = tokens.prompt > 0 and (tokens.output > 0 or not message.get("content"))
    return tokens if told else None


def unpriced(message: Mapping[str, Any]) -> list[str]:
    """What a message's usage tells that has no price in the table, such as `service_tier: priority`: the vendor's bill
    may be another than the charge.
    """
    usage = message.get("usage") or {}
    found = [f"{name}: {usage[name]}" for name, plain in PLAIN.items() if usage.get(name) not in plain]
    kinds = {str(entry.get("type")) for entry in usage.get("iterations") or ()}
    found += [f"iterations: {kind}" for kind in sorted(kinds.difference(PRICED_ITERATIONS))]
    run = usage.get("server_tool_use") or {}
    return found + [f"server_tool_use: {name}" for name in sorted(run) if _count(run, name)]


def _tokens(usage: Mapping[str, Any], long_cache: bool) -> Tokens:
    written = _count(usage, "cache_creation_input_tokens")
    detail = usage.get("cache_creation") or {}
    short, long = _count(detail, "ephemeral_5m_input_tokens"), _count(detail, "ephemeral_1h_input_tokens")
    untold = max(0, written - short - long)
    return Tokens(
        input=_count(usage, "input_tokens"),
        cache_write_5m=short + (0 if long_cache else untold),
        cache_write_1h=long + (untold if long_cache else 0),
        cache_read=_count(usage, "cache_read_input_tokens"),
        output=_count(usage, "output_tokens"),
    )


def _count(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices of one model in 10^-12 dollars per token."""

    input: int
    cache_write_5m: int
    cache_write_1h: int
    cache_read: int
    output: int

    @classmethod
    def of(cls, price: Price) -> Tariff:
        """From dollars per million tokens, which have at most six decimals."""
        return cls(**{kind: int(getattr(price, kind) * PICO_PER_MICRO) for kind in KINDS})

    def cost(self, tokens: Tokens) -> int:
        """Micro-dollars, rounded up once."""
        pico: int = sum(getattr(self, kind) * getattr(tokens, kind) for kind in KINDS)
        return -(-pico // PICO_PER_MICRO)

    def dearest_input(self, cached: bool, long_cache: bool) -> str:
        """The kind of input that costs most among those that a request can cause."""
        kinds = ["input"] + (["cache_write_5m", "cache_read"] if cached else []) + (["cache_write_1h"] * long_cache)
        return max(kinds, key=lambda kind: int(getattr(self, kind)))


def tariff_of(config: CampaignConfig) -> Tariff:
    """The prices of the brain's model. Raises `ConfigError` when there are none, or none of `diversity.model`."""
    tariffs = tariff_table(config)
    for field, model in (("brain.model", config.brain.model), ("diversity.model", config.diversity.model)):
        if model is not None and model not in tariffs:
            known = ", ".join(sorted(config.gateway.prices))
            raise ConfigError(
                f"{field}: {model!r} has no price; expected one of {known}, or a price of its own in "
                f"gateway.prices (see the vendor's page)"
            )
    return tariffs[config.brain.model]


def tariff_table(config: CampaignConfig) -> dict[str, Tariff]:
    """Prices by model; a local model without a price of its own costs nothing per token."""
    local = {config.brain.model: Price.model_validate(FREE)} if config.brain.plain else {}
    return {model: Tariff.of(price) for model, price in {**local, **config.gateway.prices}.items()}
