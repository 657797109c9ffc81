"""The one registry of metrics: every `ray_aar_*` series is declared here.

Counters, gauges and histograms on `ray.util.metrics`. Figures for people; the ledger on disk is the truth. Tags have
few values; Ray takes ASCII alone, so that what is not (a campaign may be called by any letters) is percent-encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar
from urllib.parse import quote

from ray.util.metrics import Counter, Gauge, Histogram

Series = TypeVar("Series", Counter, Gauge, Histogram)
CALL_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
"""From a short answer of a fast model to a long thought of a slow one (`gateway.call_seconds` is 900 by default)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A declared series: exported as `ray_aar_<name>` (a counter also gets `_total`, a histogram `_bucket`, `_sum` and
    `_count`). `boundaries` are the upper ends of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


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
    Metric("model_call_seconds", "histogram", "Seconds from sending a call to its answer", boundaries=CALL_SECONDS),
    Metric("model_cache_hit_share", "gauge", "Share of input tokens that was read from the prompt cache"),
    Metric("researcher_turns", "counter", "Turns of researchers", ("researcher",)),
)


class Metrics:
    """The declared series of one process, made when first used.

    Every method raises `KeyError` for an undeclared name and `TypeError` for a series of another kind.
    """

    def __init__(self, campaign: str) -> None:
        self._campaign = campaign  # as it is called; `_tags` encodes it
        self._declared = {metric.name: metric for metric in DECLARED}
        self._series: dict[str, Counter | Gauge | Histogram] = {}

    def _get(self, name: str, kind: type[Series]) -> Series:
        if name not in self._series:
            self._series[name] = _make(self._declared[name])
        series = self._series[name]
        if not isinstance(series, kind):
            raise TypeError(f"{name} is not a {kind.__name__.lower()}")
        return series

    def _tags(self, tags: dict[str, str]) -> dict[str, str]:
        return {name: ascii_tag(value) for name, value in {"campaign": self._campaign, **tags}.items()}

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Add to a counter; Ray takes no zero, which adds nothing."""
        series = self._get(name, Counter)
        if value:
            series.inc(value, self._tags(tags))

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""
        self._get(name, Gauge).set(value, self._tags(tags))

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Add one observation to a histogram."""
        self._get(name, Histogram).observe(value, self._tags(tags))


_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def ascii_tag(value: str) -> str:
    """`value` in printable ASCII, other values for other values: `k%C3%A4ml`."""
    return quote(str(value), safe=_PLAIN, errors="surrogatepass")


def _make(metric: Metric) -> Counter | Gauge | Histogram:
    name, tags = f"aar_{metric.name}", ("campaign", *metric.tags)
    if metric.kind == "histogram":
        return Histogram(name, metric.description, list(metric.boundaries), tags)
    return (Counter if metric.kind == "counter" else Gauge)(name, metric.description, tags)
