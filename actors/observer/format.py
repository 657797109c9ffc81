"""How figures are written for people: one way each, a dash for what is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.money import format_usd

DASH = "–"


def num(value: float | None, digits: int = 3) -> str:
    """A number with `digits` decimals."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", "−")


def interval(value: list[float] | None, digits: int = 3) -> str:
    """The two ends of an interval."""
    return DASH if value is None else f"{num(value[0], digits)} … {num(value[1], digits)}"


def pvalue(value: float | None) -> str:
    """A p-value; below a thousandth only that."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds as `2 h 05 min`, `3 min 20 s` or `8 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def percent(value: float | None) -> str:
    """A share in per cent."""
    return DASH if value is None else f"{100 * value:.1f} %"


def count(value: int) -> str:
    """A number of things, with commas."""
    return f"{value:,}"


def tone(status: str) -> str:
    """The style of a status word: good, warm, bad, soft."""
    if status.startswith("beats"):
        return "good"
    if status.startswith("ahead"):
        return "warm"
    return "bad" if status in ("disqualified", "withdrawn") else "soft"


FILTERS: dict[str, Callable[..., Any]] = {
    "num": num,
    "signed": signed,
    "interval": interval,
    "pvalue": pvalue,
    "duration": duration,
    "percent": percent,
    "count": count,
    "tone": tone,
    "usd": format_usd,
}
