from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.observer.books import replay
from actors.observer.diversity import entropy_bits
from actors.observer.format import duration, interval, num, pvalue
from actors.observer.leases import LeaseRow, lease_rows
from actors.observer.plain import plain
from actors.observer.series import lanes
from cluster.journal import Event


def events(*pairs: tuple[str, dict[str, Any]]) -> list[Event]:
    return [Event(n, n, kind, dict(payload), "", "") for n, (kind, payload) in enumerate(pairs, start=1)]


OPEN: tuple[str, dict[str, Any]] = ("account_opened", {"account": "campaign", "parent": None, "caps": {"usd": 10}})


def reserved(key: str, usd: int) -> tuple[str, dict[str, Any]]:
    return ("reserved", {"key": key, "account": "campaign", "amounts": {"usd": usd}, "note": ""})


def ended(kind: str, key: str, usd: int) -> tuple[str, dict[str, Any]]:
    return (kind, {"key": key, "account": "campaign", "amounts": {"usd": usd}})


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ([OPEN, OPEN], "second time"),
        ([OPEN, reserved("a", 11)], "above its cap in usd: 11 of 10"),
        ([OPEN, reserved("a", 5), reserved("a", 5)], "made a second time"),
        ([OPEN, ended("settled", "a", 1)], "never reserved"),
        ([OPEN, reserved("a", 5), ended("settled", "a", 6)], "charges usd 6, reserved were usd 5"),
        ([OPEN, reserved("a", 5), ended("settled", "a", 5), ended("released", "a", 5)], "was settled before"),
        ([OPEN, reserved("a", -5)], "negative"),
        ([reserved("a", 5)], "unknown account"),
        ([OPEN, ("reserved", {"key": "a"})], "lacks what it needs"),
    ],
)
def test_a_replay_names_the_event_that_breaks_a_rule(history: list[tuple[str, dict[str, Any]]], reason: str) -> None:
    faults = replay(events(*history)).faults
    assert len(faults) == 1
    assert faults[0].seq == len(history)
    assert reason in faults[0].reason


def test_a_replay_of_a_good_history_gives_the_balances() -> None:
    child: dict[str, Any] = {"account": "campaign/a", "parent": "campaign", "caps": {}}
    held: dict[str, Any] = {"key": "k", "account": "campaign/a", "amounts": {"usd": 7}, "note": ""}
    paid: dict[str, Any] = {"key": "k", "amounts": {"usd": 4}}
    history = [OPEN, ("account_opened", child), ("reserved", held), ("settled", paid), reserved("r", 6)]
    books = replay(events(*history))
    assert books.faults == []
    assert books.accounts["campaign"].spent.usd == 4
    assert books.accounts["campaign"].reserved.usd == 6
    assert books.total().usd == 4
    assert [books.usd_at(t) for t in (3, 4, 99)] == [0, 4, 4]


def test_a_lost_lease_and_its_second_attempt_are_two_rows() -> None:
    facts = {"request_id": "r1", "account": "campaign/a", "kind": "full", "label": "", "gpus": 1.0}
    rows = lease_rows(
        events(
            ("lease_requested", facts),
            ("lease_granted", {**facts, "lease_id": "r1-1", "slot": "s"}),
            ("lease_lost", {**facts, "lease_id": "r1-1", "slot": "s"}),
            ("lease_granted", {**facts, "lease_id": "r1-2", "slot": "t"}),
            ("lease_ended", {**facts, "lease_id": "r1-2", "slot": "t", "status": "done", "gpu_ms": 5, "usd": 2}),
        )
    )
    assert [(r.lease_id, r.status, r.slot, r.gpu_ms) for r in rows] == [
        ("r1-1", "requeued", "s", 0),
        ("r1-2", "done", "t", 5),
    ]
    assert rows[1].requested_seq == 1


def test_a_request_that_was_cancelled_in_the_queue_is_one_row_that_never_ran() -> None:
    facts = {"request_id": "r1", "account": "campaign/a", "kind": "full", "label": "", "gpus": 1.0}
    ending = {**facts, "lease_id": "r1-1", "slot": None, "status": "cancelled", "started_us": 7, "ended_us": 7}
    (row,) = lease_rows(events(("lease_requested", facts), ("lease_ended", ending)))
    assert (row.status, row.started_us, row.granted_seq) == ("cancelled", 0, None)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**5), st.integers(50, 1000)), max_size=30))
def test_leases_that_fit_a_slot_are_drawn_inside_it(spans: list[tuple[int, int, int]]) -> None:
    leases = [
        LeaseRow(str(n), str(n), "", "", "", gpus / 1000, slot="s", started_us=start, ended_us=start + length)
        for n, (start, length, gpus) in enumerate(spans)
    ]
    for lease, level in lanes(leases, 0):
        assert -1e-9 <= level <= 1 - lease.gpus + 1e-9


def test_leases_at_the_same_time_lie_above_each_other() -> None:
    halves = [LeaseRow(n, n, "", "", "", 0.5, slot="s", started_us=5, ended_us=9) for n in "ab"]
    after = LeaseRow("c", "c", "", "", "", 0.5, slot="s", started_us=9, ended_us=12)
    assert [level for _, level in lanes([*halves, after], 0)] == [0.0, 0.5, 0.0]


@given(st.lists(st.integers(0, 50), max_size=12))
def test_entropy_lies_between_none_and_an_even_share(counts: list[int]) -> None:
    used = sum(count > 0 for count in counts)
    assert -1e-9 <= entropy_bits(counts) <= math.log2(max(1, used)) + 1e-9


def test_an_even_share_of_four_is_two_bits() -> None:
    assert entropy_bits([3, 3, 3, 3]) == pytest.approx(2.0)


def test_what_json_lacks_becomes_null_or_text() -> None:
    value = {"a": float("nan"), "b": [float("inf"), 1.5], "c": b"\x01", 4: (True, None)}
    assert plain(value) == {"a": None, "b": [None, 1.5], "c": "01", "4": [True, None]}


def test_figures_are_written_one_way() -> None:
    assert (num(-0.5, 2), num(None), interval([-0.1, 0.2], 1)) == ("−0.50", "–", "−0.1 … 0.2")
    assert (pvalue(0.0), pvalue(0.04), pvalue(None)) == ("< 0.001", "0.040", "–")
    assert [duration(s) for s in (8.2, 65, 7325)] == ["8 s", "1 min 05 s", "2 h 02 min"]
