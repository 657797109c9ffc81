"""The bill before the start: its promises are the caps, its middle is arithmetic that can be done by hand."""

from __future__ import annotations

import pytest

from actors.director.estimate import estimate
from actors.gateway.requests import RequestParser, asks_long_cache
from actors.researcher.brains.llm.requests import Requests
from cluster.config import ConfigError, load_config
from cluster.money import MICRO


def test_the_published_preset_never_costs_more_than_its_cap_and_says_what_it_assumes() -> None:
    bill = estimate(load_config("published"), 5)
    assert bill.most == 18_000 * MICRO
    assert all(line.usd is not None and line.usd <= bill.most for line in bill.lines)
    assert bill.middle is not None
    assert bill.middle.usd * 9 < bill.most
    text = bill.text()
    for words in ("$18,000.00", "claude-opus-4-6", "Assumed:", "compare them with the vendor's page"):
        assert words in text


def test_two_turns_by_hand() -> None:
    """Turn 1 writes 8,000 and puts out 900; turn 2 reads 8,000, writes 2,400 and puts out 900. Written for an hour."""
    bill = estimate(load_config("published", overrides=("researchers.max_turns=2",)), 5)
    assert bill.middle is not None
    tokens = bill.middle.tokens
    assert (tokens.cache_write_1h, tokens.cache_read, tokens.output, tokens.input) == (10_400, 8_000, 1_800, 0)
    assert bill.middle.usd == 104_000 + 4_000 + 45_000
    assert bill.middle.bounded_by == "researchers.max_turns"


def test_without_caching_the_same_research_costs_more_than_four_times_as_much() -> None:
    overrides = ("researchers.max_turns=500", "budget.researcher.usd=100000", "budget.campaign.usd=1000000")
    bills = [
        estimate(load_config("published", overrides=(*overrides, f"brain.cache={cache}")), 5).middle
        for cache in ("true", "false")
    ]
    assert bills[0] is not None
    assert bills[1] is not None
    assert bills[1].usd > 4 * bills[0].usd


def test_a_researchers_cap_ends_the_middle_and_an_explorer_has_none() -> None:
    bill = estimate(load_config("published", overrides=("budget.researcher.usd=1",)), 5)
    assert bill.middle is not None
    assert (bill.middle.usd, bill.middle.bounded_by) == (MICRO, "budget.researcher.usd")
    assert estimate(load_config("quickstart"), 5).middle is None
    assert "no cap" in estimate(load_config("quickstart", overrides=("budget.campaign.usd=none",)), 5).text()


def test_cache_writes_are_priced_for_the_time_that_requests_ask_for() -> None:
    """What a brain really asks for, so that the estimate cannot drift away from it."""
    brain = load_config("published").brain
    request = Requests(brain, "system", [{"name": "budget"}]).turn([{"role": "user", "content": [{"type": "text"}]}], 0)
    assert asks_long_cache(RequestParser().parse(request)[1].marks)
    bill = estimate(load_config("published", overrides=("researchers.max_turns=2",)), 5)
    assert bill.middle is not None
    assert (bill.middle.tokens.cache_write_5m, bill.middle.tokens.cache_write_1h > 0) == (0, True)


def test_a_model_without_a_price_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"brain\.model: 'claude-unheard-of' has no price"):
        estimate(load_config("published", overrides=("brain.model=claude-unheard-of",)), 5)


def test_a_server_of_the_campaigns_own_is_in_the_worst_case_at_the_pools_price() -> None:
    overrides = ("brain.kind=local", "serve.gpus=0.5", "serve.lease_minutes=60", "pool.usd_per_gpu_hour=2")
    served = estimate(load_config("quickstart", overrides=(*overrides, "research.minutes=150")), 5)
    (line,) = [line for line in served.lines if "model's server" in line.what]
    assert line.usd == 3 * MICRO, "three leases of an hour on half a GPU"
    assert "1.50 GPU-hours" in line.what
    full = estimate(load_config("quickstart", overrides=(*overrides, "research.minutes=180")), 5)
    assert any("(2.00 GPU-hours" in line.what for line in full.lines), "last words may need a fourth"
    assert served.middle is not None
    assert served.middle.tokens.cache_read == 0, "vLLM's own cache costs nothing and is not asked for"
    elsewhere = estimate(load_config("quickstart", overrides=(*overrides, "brain.base_url=http://127.0.0.1:8000")), 5)
    assert not any("model's server" in line.what for line in elsewhere.lines)


def test_the_naming_of_families_is_in_the_worst_case_and_its_model_needs_a_price() -> None:
    bill = estimate(load_config("published", overrides=("diversity.model=claude-haiku-4-5", "diversity.usd=2.5")), 5)
    assert [line.usd for line in bill.lines if "idea families" in line.what] == [2_500_000]
    with pytest.raises(ConfigError, match=r"diversity\.model: 'unheard-of' has no price"):
        estimate(load_config("published", overrides=("diversity.model=unheard-of",)), 5)
