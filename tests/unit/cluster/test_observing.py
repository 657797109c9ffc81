"""What observes never fails what it observes, and what failed is counted where people see it."""

from __future__ import annotations

import asyncio
from functools import partial
from operator import getitem
from pathlib import Path

import pytest

from actors.gateway.gateway import Gateway
from actors.observer.live import one_line, render
from cluster.metrics import Metrics, ascii_tag
from cluster.observing import Guard, Guarded
from cluster.store import Store
from tests.unit.actors.gateway_world import TEAM, Clock, FakeLedger, Simulated, answer, campaign, request

ODD = ("käml", "数学", "a b", "100%", "x\ny", "\u202e", "\udcff", "", "x" * 300)


class Broken:
    """A sink that fails whatever it is told."""

    def _fail(self, *args: object, **tags: object) -> None:
        raise ValueError("no metric today \x1b[31m")

    count = set = observe = _fail


@pytest.mark.parametrize("name", ODD)
def test_metrics_take_a_campaign_of_any_name(name: str) -> None:
    metrics = Metrics(name)
    metrics.count("model_calls", outcome=name)
    metrics.set("leases_waiting", 2)
    metrics.observe("model_call_seconds", 3.5)
    assert ascii_tag(name).isascii()


def test_tags_of_different_names_differ_and_plain_ones_stay() -> None:
    assert len({ascii_tag(name) for name in ODD}) == len(ODD)
    assert ascii_tag("quickstart-2_b.c/d") == "quickstart-2_b.c/d"
    assert ascii_tag("käml") == "k%C3%A4ml"


@pytest.mark.parametrize("sink", [Metrics("käml"), Broken(), Metrics("\udcff")])
def test_an_answered_call_is_delivered_and_charged_whatever_its_metrics_do(sink: Metrics, tmp_path: Path) -> None:
    ledger_actor, clock, end = FakeLedger(tmp_path / "scheduler.db"), Clock(), Simulated(answer(), answer())
    gateway = Gateway(
        Store(tmp_path / "gateway.db"), campaign(), ledger_actor.client(), end, sink, clock=clock, sleep=clock.sleep
    )
    for number in range(2):
        told = asyncio.run(gateway.call(f"{TEAM[0]}/{number}/model/0", TEAM[0], request()))
        assert told.message["content"]
    assert (len(end.sent), ledger_actor.reserved()) == (2, 0)
    failed = gateway.status()["unobserved"]
    if isinstance(sink, Broken):
        assert failed["metric model_calls"] == {"times": 2, "last": "ValueError: no metric today \\u001b[31m"}
    else:
        assert failed == {}


def test_a_guard_counts_what_its_observers_raise_and_tells_another_error_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = Guard()
    for missing in ("one", "one", "two"):
        guard.run("view", partial(getitem, {}, missing))
    Guarded(None, guard).count("posts")
    assert guard.failed() == {"view": {"times": 3, "last": "KeyError: 'two'"}}
    assert len(caplog.records) == 2


def test_the_live_view_shows_what_was_not_observed_and_obeys_no_foreign_text() -> None:
    hostile = "[/red]\x1b[2J\u202e"
    status = {
        "phase": "research",
        "alarm": hostile,
        "scheduler": {"state": "unreachable", "running": [{"slot": hostile, "kind": "pilot", "label": hostile}]},
        "evaluator": {"note": hostile},
        "gateway": {"unobserved": {"metric posts": {"times": 7, "last": hostile}}},
        "researchers": {hostile: {"state": "paused", "last_action": hostile}},
    }
    from rich.console import Console

    console = Console(width=200, force_terminal=False)
    with console.capture() as shown:
        console.print(render(hostile, status))
    for page in (shown.get(), one_line(hostile, status)):
        assert "not observed: metric posts, 7 times" in page
        assert "scheduler unreachable" in page
        assert "\\u001b[2J\\u202e" in page
        assert not {"\x1b", "\u202e"} & set(page)
