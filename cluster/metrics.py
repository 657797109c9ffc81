"""The one registry of metrics: every `ray_aar_*` series is declared here.

Counters and gauges on `ray.util.metrics`. Figures for people; the ledger on disk is the truth. Tags have few values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ray.util.metrics import Counter, Gauge


@dataclass(frozen=True, slots=True)
class Metric:
    """A declared series: exported as `ray_aar_<name>` (a counter also gets `_total`)."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...] = ()


DECLARED = (
    Metric("usd_spent", "gauge", "Dollars settled by the ledger", ("account",)),
    Metric("gpu_seconds", "gauge", "GPU-seconds settled by the ledger", ("account",)),
    Metric("leases_running", "gauge", "Leases that run now", ("kind",)),
    Metric("leases_waiting", "gauge", "Requests in the queue"),
    Metric("leases_ended", "counter", "Leases that ended", ("kind", "status")),
    Metric("posts", "counter", "Forum posts", ("kind",)),
    Metric("records", "counter", "Signed records", ("tier",)),
    Metric("best_board_accuracy", "gauge", "Level of the Ladder (a multiple of its step)"),
    Metric("model_calls", "counter", "Calls of models by how they ended", ("outcome",)),
    Metric("model_retries", "counter", "Attempts that failed and were made again", ("reason",)),
    Metric("model_tokens", "counter", "Tokens of calls by kind", ("kind",)),
    Metric("model_usd", "counter", "Dollars of calls"),
    Metric("model_seconds", "counter", "Seconds of answered calls, together"),
    Metric("model_cache_hit_share", "gauge", "Share of input tokens that was read from the prompt cache"),
    Metric("researcher_turns", "counter", "Turns of researchers", ("researcher",)),
)


class Metrics:
    """The declared series of one process, made when first used."""

    def __init__(self, campaign: str) -> None:
        self._campaign = campaign
        self._declared = {metric.name: metric for metric in DECLARED}
        self._series: dict[str, Counter | Gauge] = {}

    def _get(self, name: str) -> Counter | Gauge:
        if name not in self._series:
            metric = self._declared[name]
            make = Counter if metric.kind == "counter" else Gauge
            self._series[name] = make(f"aar_{name}", metric.description, ("campaign", *metric.tags))
        return self._series[name]

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Add to a counter. Raises `KeyError` for an undeclared name, `TypeError` for a gauge."""
        series = self._get(name)
        if not isinstance(series, Counter):
            raise TypeError(f"{name} is not a counter")
        series.inc(value, {"campaign": self._campaign, **tags})

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge. Raises `KeyError` for an undeclared name, `TypeError` for a counter."""
        series = self._get(name)
        if not isinstance(series, Gauge):
            raise TypeError(f"{name} is not a gauge")
        series.set(value, {"campaign": self._campaign, **tags})
