"""Prices by hand, and bounds that hold."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gateway.billing import worst_case
from actors.gateway.pricing import Tariff, Tokens, billed, tokens_of, unpriced
from actors.gateway.requests import RequestParser
from cluster.config import Price
from cluster.errors import RefusedError
from tests.unit.actors.gateway_world import MODEL, campaign, request, tariff

counts = st.integers(0, 10**6)
OPUS = tariff(campaign())


def test_a_cached_call_by_hand() -> None:
    """1,000 x $5 + 2,000 x $6.25 + 3,000 x $10 + 40,000 x $0.50 + 500 x $25 per million = 80,000 micro-dollars."""
    usage = {
        "input_tokens": 1000,
        "cache_creation_input_tokens": 5000,
        "cache_creation": {"ephemeral_5m_input_tokens": 2000, "ephemeral_1h_input_tokens": 3000},
        "cache_read_input_tokens": 40_000,
        "output_tokens": 500,
    }
    tokens = tokens_of(usage)
    assert tokens == Tokens(1000, 2000, 3000, 40_000, 500)
    assert OPUS.cost(tokens) == 5000 + 12_500 + 30_000 + 20_000 + 12_500


def test_fractions_of_a_micro_dollar_round_up_once() -> None:
    assert OPUS.cost(Tokens(cache_read=1)) == 1
    assert OPUS.cost(Tokens(cache_read=3)) == 2
    assert OPUS.cost(Tokens(cache_read=1, cache_write_5m=1)) == 7
    assert OPUS.cost(Tokens()) == 0


def test_writes_of_unknown_duration_cost_what_the_request_asked_for() -> None:
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 10, "cache_creation": None}
    assert tokens_of(usage).cache_write_5m == 10
    assert tokens_of(usage, long_cache=True).cache_write_1h == 10


def test_a_compaction_is_paid_beside_the_message_and_message_iterations_are_not_paid_twice() -> None:
    usage = {
        "input_tokens": 10,
        "output_tokens": 20,
        "iterations": [
            {"type": "compaction", "input_tokens": 1000, "output_tokens": 300},
            {"type": "message", "input_tokens": 10, "output_tokens": 20},
        ],
    }
    assert tokens_of(usage) == Tokens(input=1010, output=320)


def test_nonsense_in_a_usage_counts_for_nothing() -> None:
    assert tokens_of({"input_tokens": None, "output_tokens": -5, "cache_read_input_tokens": True}) == Tokens()


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": 0, "output_tokens": 5}, {"input_tokens": 5}])
def test_a_usage_that_lacks_a_side_tells_no_bill(usage: dict[str, int] | None) -> None:
    assert billed({"content": [{"type": "text", "text": "x"}], "usage": usage}) is None


def test_an_empty_answer_may_have_cost_no_output() -> None:
    assert billed({"content": [], "usage": {"input_tokens": 5, "output_tokens": 0}}) == Tokens(input=5)


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({}, []),
        ({"service_tier": "standard", "speed": "standard", "inference_geo": "global"}, []),
        ({"service_tier": None, "speed": None, "inference_geo": "not_available", "server_tool_use": None}, []),
        ({"iterations": [{"type": "message"}, {"type": "compaction"}]}, []),
        ({"service_tier": "priority"}, ["service_tier: priority"]),
        ({"speed": "fast", "inference_geo": "us"}, ["speed: fast", "inference_geo: us"]),
        ({"iterations": [{"type": "fallback_message"}]}, ["iterations: fallback_message"]),
        (
            {"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0}},
            ["server_tool_use: web_search_requests"],
        ),
    ],
)
def test_what_changes_a_price_is_told(usage: dict[str, Any], told: list[str]) -> None:
    assert unpriced({"usage": usage}) == told


@settings(deadline=None)
@given(st.lists(st.tuples(counts, counts, counts, counts, counts), max_size=5))
def test_a_sum_of_rounded_costs_never_understates_the_bill(rows: list[tuple[int, int, int, int, int]]) -> None:
    tokens = [Tokens(*row) for row in rows]
    total = sum(tokens, Tokens())
    exact = sum(
        Decimal(getattr(total, kind)) * price for kind, price in campaign().gateway.prices[MODEL].model_dump().items()
    )
    assert exact <= sum(OPUS.cost(t) for t in tokens) < exact + len(tokens) + 1


@settings(deadline=None)
@given(st.text(max_size=300), st.booleans(), st.sampled_from(["5m", "1h"]), st.data())
def test_no_usage_of_a_call_costs_more_than_what_is_set_aside(
    text: str, marked: bool, ttl: str, data: st.DataObject
) -> None:
    block: dict[str, Any] = {"type": "text", "text": text.encode("utf-8", "ignore").decode()}
    if marked:
        block["cache_control"] = {"type": "ephemeral", "ttl": ttl}
    body, parts = RequestParser().parse(request(messages=[{"role": "user", "content": [block]}]))
    worst = worst_case(body, None, parts, OPUS)
    prompt = len(json.dumps(block, ensure_ascii=False).encode()) + 700
    cuts = sorted(data.draw(st.integers(0, prompt)) for _ in range(3))
    split = [cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], prompt - cuts[2]]
    kinds = ["input", "cache_read", "cache_write_5m", "cache_write_1h"]
    if not marked:
        split = [prompt, 0, 0, 0]
    elif ttl == "5m":
        split = [*split[:2], split[2] + split[3], 0]
    used = Tokens(**dict(zip(kinds, split, strict=True)), output=1000)
    assert OPUS.cost(used) <= OPUS.cost(worst)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"service_tier": "auto"}, "service_tier"),
        ({"speed": "fast"}, "speed"),
        ({"stream": True}, "stream"),
        ({"betas": ["context-1m-2025-08-07"]}, "betas"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "document"}]}]}]},
            "document",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"system": "\ud83d"}, "not JSON"),
        ({"temperature": float("nan")}, "not JSON"),
    ],
)
def test_what_cannot_be_priced_or_sent_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(RefusedError, match=word) as caught:
        RequestParser().parse({**request(), **change})
    assert caught.value.reason == "bad_request"


def test_ten_megabytes_are_taken_and_forty_are_too_large() -> None:
    body, _ = RequestParser().parse(request("x" * (10 << 20)))
    assert body.input_bound > 10 << 20
    with pytest.raises(RefusedError) as caught:
        RequestParser().parse(request("x" * (40 << 20)))
    assert caught.value.reason == "too_large"


def test_prices_of_six_decimals_are_exact() -> None:
    price = dict.fromkeys(("input", "output", "cache_write_5m", "cache_write_1h", "cache_read"), "0.000001")
    assert Tariff.of(Price.model_validate(price)).cost(Tokens(input=1_000_001)) == 2
