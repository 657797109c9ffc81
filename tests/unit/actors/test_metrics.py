"""The registry of metrics: each kind takes what is its own, and the gateway's meters use declared series alone."""

from __future__ import annotations

from typing import Any

import pytest

from actors.gateway.meters import Meters
from actors.gateway.pricing import Tokens
from cluster.metrics import DECLARED, Metrics


class Sink:
    """Takes what meters say, and refuses what is not declared so."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float]] = []

    def __getattr__(self, method: str) -> Any:
        kind = {"count": "counter", "set": "gauge", "observe": "histogram"}[method]

        def take(name: str, value: float = 1.0, **tags: str) -> None:
            (metric,) = (metric for metric in DECLARED if metric.name == name)
            assert (metric.kind, set(metric.tags)) == (kind, set(tags))
            self.told.append((method, name, value))

        return take


def test_a_series_takes_its_own_kind_alone() -> None:
    metrics = Metrics("team")
    metrics.count("model_calls", outcome="answered")
    metrics.set("leases_waiting", 2)
    metrics.observe("model_call_seconds", 3.5)
    with pytest.raises(TypeError, match="posts is not a histogram"):
        metrics.observe("posts", 1.0)
    with pytest.raises(TypeError, match="model_call_seconds is not a counter"):
        metrics.count("model_call_seconds")
    with pytest.raises(KeyError):
        metrics.count("nothing")


def test_a_free_answer_is_metered() -> None:
    meters = Meters(Metrics("team"))
    meters.count_answer("01-a", Tokens(input=10, output=2), 0, 0.5)
    assert meters.to_dict()["researchers"]["01-a"]["calls"] == 1


def test_boundaries_of_every_histogram_rise() -> None:
    for metric in DECLARED:
        assert bool(metric.boundaries) == (metric.kind == "histogram")
        assert list(metric.boundaries) == sorted(set(metric.boundaries))


def test_the_latency_of_every_answer_is_observed() -> None:
    sink = Sink()
    meters = Meters(sink)
    meters.count_answer("01-a", Tokens(input=10, output=2), 50, 1.25)
    meters.count_answer("02-b", Tokens(input=10, output=2), 50, 7.0)
    meters.count_loss("01-a", Tokens(input=1), 1)
    meters.count_retry("01-a", "unavailable")
    meters.count_refusal("over_budget")
    assert [value for method, _, value in sink.told if method == "observe"] == [1.25, 7.0]
