"""The bill before the start: its promises are the caps, its middle is arithmetic that can be done by hand."""

from __future__ import annotations

from actors.director.estimate import estimate
from cluster.config import load_config
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
    """Turn 1 writes 8,000 and puts out 900; turn 2 reads 8,000, writes 2,400 and puts out 900."""
    bill = estimate(load_config("published", overrides=("researchers.max_turns=2",)), 5)
    assert bill.middle is not None
    tokens = bill.middle.tokens
    assert (tokens.cache_write_5m, tokens.cache_read, tokens.output, tokens.input) == (10_400, 8_000, 1_800, 0)
    assert bill.middle.usd == 65_000 + 4_000 + 45_000
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
    assert "no cap" in estimate(load_config("quickstart", overrides=("budget.campaign.usd=null",)), 5).text()
