"""Money: integers only, prices round up, sums never understate the bill."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.money import (
    DIMENSIONS,
    MICRO,
    MS_PER_HOUR,
    Amounts,
    Caps,
    format_usd,
    gpu_cost,
    gpu_ms,
    usd_from_decimal,
)

COUNT = st.integers(0, 10**15)
AMOUNTS = st.builds(Amounts, COUNT, COUNT, COUNT, COUNT)
CAPS = st.builds(Caps, *[st.none() | COUNT] * 4)
PRICE = st.integers(0, 10**10)


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_amounts_add_like_integers_in_each_dimension(a: Amounts, b: Amounts, c: Amounts) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert (a + b) - b == a
    assert a + Amounts() == a
    assert (a - b).negative() == any(getattr(a, d) < getattr(b, d) for d in DIMENSIONS)
    assert not (a - a.capped_by(b)).negative()
    assert not (b - a.capped_by(b)).negative()


@given(AMOUNTS, CAPS)
def test_a_cap_is_exceeded_only_above_it_and_names_the_dimension(amounts: Amounts, caps: Caps) -> None:
    over = caps.exceeded_by(amounts)
    above = [d for d in DIMENSIONS if (cap := getattr(caps, d)) is not None and getattr(amounts, d) > cap]
    assert over == (above[0] if above else None)
    assert Caps(**amounts.to_dict()).exceeded_by(amounts) is None


@given(AMOUNTS, CAPS)
def test_plain_mappings_come_back(amounts: Amounts, caps: Caps) -> None:
    assert Amounts.from_dict(amounts.to_dict()) == amounts
    assert Caps.from_dict(caps.to_dict()) == caps
    assert Amounts.from_dict({}) == Amounts()


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("value", [5.5, 5.0, True, "5", Decimal(5), float("nan")])
def test_nothing_but_an_integer_is_an_amount_or_a_cap(dimension: str, value: Any) -> None:
    for kind in (Amounts, Caps):
        with pytest.raises(TypeError, match="no integer"):
            kind(**{dimension: value})
        with pytest.raises(TypeError, match="no integer"):
            kind.from_dict({dimension: value})
    with pytest.raises(ValueError, match="below zero"):
        Caps(**{dimension: -1})


@given(COUNT, PRICE)
def test_a_price_is_exact_and_rounded_up(milliseconds: int, price: int) -> None:
    cost, exact = gpu_cost(milliseconds, price), Fraction(milliseconds * price, MS_PER_HOUR)
    assert exact <= cost < exact + 1


@given(st.lists(st.integers(0, 10**9), max_size=20), PRICE)
def test_parts_never_cost_less_than_the_whole(parts: list[int], price: int) -> None:
    assert sum(gpu_cost(p, price) for p in parts) >= gpu_cost(sum(parts), price)


@given(COUNT, COUNT, PRICE)
def test_less_time_never_costs_more(a: int, b: int, price: int) -> None:
    assert gpu_cost(min(a, b), price) <= gpu_cost(max(a, b), price)


def test_an_hour_costs_its_price() -> None:
    assert gpu_cost(MS_PER_HOUR, 2 * MICRO) == 2 * MICRO
    assert gpu_cost(1, 2 * MICRO) == 1
    assert gpu_cost(0, 2 * MICRO) == gpu_cost(5, 0) == 0


@given(st.integers(50, 1000), st.integers(0, 10**9))
def test_gpu_time_of_a_fraction_is_exact_in_thousandths_and_rounded_up(share: int, milliseconds: int) -> None:
    exact = Fraction(share * milliseconds, 1000)
    assert exact <= gpu_ms(share / 1000, milliseconds) < exact + 1


@given(st.decimals(0, 10**9, places=6))
def test_dollars_of_six_places_are_exact(value: Decimal) -> None:
    assert usd_from_decimal(value) == usd_from_decimal(str(value)) == int(value * MICRO)


@pytest.mark.parametrize(
    ("value", "micro"), [("1.50", 1_500_000), (0.1, 100_000), ("0.0000001", 1), (2, 2_000_000), ("1e-6", 1), (0, 0)]
)
def test_dollars_round_up_to_micro_dollars(value: str | float, micro: int) -> None:
    assert usd_from_decimal(value) == micro


@pytest.mark.parametrize("value", ["", "a", "$1", "nan", "inf", "-inf", "1,50"])
def test_what_is_no_amount_of_dollars_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match="dollar amount"):
        usd_from_decimal(value)


@pytest.mark.parametrize(
    ("micro", "text"),
    [(1_500_000, "$1.50"), (0, "$0.0000"), (1234, "$0.0012"), (-2_000_000, "-$2.00"), (18_000_000_000, "$18000.00")],
)
def test_dollars_are_shown_with_cents(micro: int, text: str) -> None:
    assert format_usd(micro) == text
