"""One call through the gateway on a real ledger: metered, kept, retried, refused, brought to its end after a death."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.gateway import recorder
from actors.gateway.client import ModelAnswer
from actors.gateway.pricing import Tokens, tariff_of
from actors.gateway.rate_limiter import RateLimits
from actors.gateway.recorder import load_request
from actors.gateway.replayer import Replayer, as_recorded
from actors.gateway.requests import RequestParser
from actors.gateway.retries import Failure
from actors.researcher.retry_policy import next_step
from cluster.config import ConfigError, dump_config, validate
from cluster.errors import Reason, RefusedError
from cluster.names import CAMPAIGN, RunPaths
from cluster.remote import UnreachableError
from cluster.storage import StorageError
from cluster.store import open_readonly
from scripts import run_campaign
from tests.unit.actors.gateway_world import (
    MEMORY,
    MODEL,
    TEAM,
    Clock,
    Died,
    FakeLedger,
    Simulated,
    answer,
    campaign,
    cost,
    make,
    request,
)

WHO = TEAM[0]
KEY = f"{WHO}/0/model/0"
OVERLOADED = Failure(Reason.UNAVAILABLE, "529 overloaded", again=True)
DROPPED = Failure(Reason.UNAVAILABLE, "dropped", again=True, billed=True)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield Path(path)


@pytest.fixture
def ledger_actor(tmp_path: Path) -> FakeLedger:
    return FakeLedger(tmp_path / "scheduler.db")


def test_a_call_is_charged_what_its_usage_costs_and_the_rest_is_free_again(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    message = answer(cache_read_input_tokens=5000, cache_creation_input_tokens=700)
    gateway = make(tmp_path, ledger_actor, Simulated(message))
    got = asyncio.run(gateway.call(KEY, WHO, request()))
    assert got.message == message
    assert got.charged == cost(campaign(), message) == ledger_actor.spent()
    assert ledger_actor.reserved() == 0


def test_an_answer_that_finds_no_room_on_disk_is_kept_until_there_is_some_and_paid_once(
    tmp_path: Path, ledger_actor: FakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Simulated()
    gateway = make(tmp_path, ledger_actor, endpoint)
    answered, full = gateway.attempts.record_answer, 3

    def written(*facts: Any) -> None:
        nonlocal full
        full -= 1
        if full >= 0:
            raise StorageError("full")
        answered(*facts)

    def begun(*_: Any) -> None:
        raise StorageError("full")

    monkeypatch.setattr(gateway.attempts, "record_answer", written)
    monkeypatch.setattr(gateway.attempts, "lower_worst_case", begun)
    got = asyncio.run(gateway.call(KEY, WHO, request()))
    assert len(endpoint.sent) == 1
    assert got.charged == cost(campaign(), got.message) == ledger_actor.spent()
    assert ledger_actor.reserved() == 0


def test_a_key_gives_its_first_answer_again_and_is_paid_once(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    endpoint = Simulated(answer("first"), answer("second"))
    gateway = make(tmp_path, ledger_actor, endpoint)

    async def ask() -> list[Any]:
        both = await asyncio.gather(gateway.call(KEY, WHO, request()), gateway.call(KEY, WHO, request()))
        return [*both, await gateway.call(KEY, WHO, request("something else"))]

    got = asyncio.run(ask())
    assert got[0] == got[1] == got[2]

    async def ask_as_another() -> None:
        for who in ("02-other", CAMPAIGN):
            with pytest.raises(RefusedError, match="another caller's"):
                await gateway.call(KEY, who, request())

    asyncio.run(ask_as_another())
    assert len(endpoint.sent) == 1
    assert ledger_actor.spent() == got[0].charged


def test_what_does_not_fit_is_refused_with_what_is_left_and_asked_and_nothing_is_sent(tmp_path: Path) -> None:
    ledger_actor, endpoint = FakeLedger(tmp_path / "scheduler.db", usd=0.02), Simulated()
    with pytest.raises(RefusedError) as caught:
        asyncio.run(make(tmp_path, ledger_actor, endpoint).call(KEY, WHO, request(max_tokens=1000)))
    assert caught.value.reason == "over_budget"
    assert caught.value.detail["left"] == 20_000
    assert caught.value.detail["asked"] > 25_000
    assert endpoint.sent == []
    assert ledger_actor.reserved() == ledger_actor.spent() == 0


def test_a_failure_that_cost_nothing_is_tried_again_on_the_same_reservation(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    endpoint = Simulated(OVERLOADED, OVERLOADED, answer())
    got = asyncio.run(make(tmp_path, ledger_actor, endpoint).call(KEY, WHO, request()))
    assert len(endpoint.sent) == 3
    assert got.charged == cost(campaign(), answer()) == ledger_actor.spent()
    assert len(ledger_actor.store.query("SELECT * FROM reservations")) == 1


def test_an_endpoint_that_wants_fewer_calls_makes_everybody_wait(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    now = [0.0]
    throttled = Failure(Reason.UNAVAILABLE, "429", again=True, throttled=True, retry_after_s=50.0)

    async def skip(seconds: float) -> None:
        assert gateway._rate_limiter._limits.next_start(now[0]) is None
        gateway._rate_limiter._limits.enqueue("other", "other", gateway._meters.guess("other"))
        assert gateway._rate_limiter._limits.start_due(now[0]) == []
        now[0] += seconds
        assert gateway._rate_limiter._limits.start_due(now[0]) == ["other"]

    gateway = make(tmp_path, ledger_actor, Simulated(throttled, answer()))
    gateway._sleep, gateway._clock, gateway._rate_limiter._clock = skip, lambda: now[0], lambda: now[0]
    gateway._rate_limiter._limits = RateLimits(campaign().gateway, 0.0)
    assert asyncio.run(gateway.call(KEY, WHO, request())).charged == ledger_actor.spent()
    assert now[0] == 50.0


def test_an_attempt_whose_end_is_unknown_is_charged_at_its_worst(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    gateway = make(tmp_path, ledger_actor, Simulated(DROPPED, answer()))
    got = asyncio.run(gateway.call(KEY, WHO, request()))
    rows = ledger_actor.store.query("SELECT usd, charged_usd FROM reservations ORDER BY key")
    assert rows[0]["charged_usd"] == rows[0]["usd"]
    assert rows[1]["charged_usd"] == cost(campaign(), answer())
    assert got.charged == ledger_actor.spent() == sum(row["charged_usd"] for row in rows)


@pytest.mark.parametrize("reason", ["bad_key", "no_credit", "context_too_long", "bad_request", "unknown_model"])
def test_what_will_not_change_is_told_at_once_and_costs_nothing(
    tmp_path: Path, ledger_actor: FakeLedger, reason: Any
) -> None:
    endpoint = Simulated(Failure(reason, "no"))
    with pytest.raises(RefusedError) as caught:
        asyncio.run(make(tmp_path, ledger_actor, endpoint).call(KEY, WHO, request()))
    assert caught.value.reason == reason
    assert len(endpoint.sent) == 1
    assert ledger_actor.reserved() == ledger_actor.spent() == 0


def test_of_one_key_two_answers_are_paid_for_and_lost_however_often_it_is_asked(tmp_path: Path) -> None:
    ledger_actor, endpoint = FakeLedger(tmp_path / "scheduler.db", usd=20, each=20), Simulated(*[DROPPED] * 1000)
    gateway = make(tmp_path, ledger_actor, endpoint)
    for n in range(30):
        with pytest.raises(RefusedError, match="dropped" if n == 0 else "2 answers") as caught:
            asyncio.run(gateway.call(KEY, WHO, request("x" * 8000, max_tokens=16_000)))
        assert caught.value.reason == "lost"
        assert caught.value.detail == {"lost": 2, "charged": ledger_actor.spent()}
    assert len(endpoint.sent) == 2
    assert 0 < ledger_actor.spent() < 1_000_000
    assert ledger_actor.reserved() == 0


def test_answers_that_are_lost_one_after_another_pause_all_calls_ever_longer(tmp_path: Path) -> None:
    """Thirty keys of three researchers, all lost: six hours cost at most twenty answers."""
    ledger_actor, endpoint, clock = (
        FakeLedger(tmp_path / "scheduler.db", usd=20, each=20),
        Simulated(*[DROPPED] * 2000),
        Clock(),
    )
    gateway = make(tmp_path, ledger_actor, endpoint, campaign("gateway.concurrent_calls=3"), clock)

    async def ask(n: int) -> None:
        with pytest.raises(RefusedError):
            await gateway.call(f"k{n}", TEAM[n % 3], request("x" * 8000, max_tokens=16_000))

    async def first_hours() -> None:
        calls = [asyncio.ensure_future(ask(n)) for n in range(30)]
        while clock.now < 60:
            await asyncio.sleep(0)
        assert len(endpoint.sent) <= 5 + 3
        assert gateway.status()["losses"]["in_a_row"] >= 5
        while clock.now < 6 * 3600:
            await asyncio.sleep(0)
        assert len(endpoint.sent) <= 5 + 3 + 12
        endpoint.outcomes.clear()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(first_hours())
    assert ledger_actor.spent() < 15_000_000
    (told,) = gateway.attempts.journal.events(kind="calls_paused")
    assert told.payload["losses"] == 5
    assert gateway.status()["losses"] == {"in_a_row": 0, "paused_seconds": 0.0}


def test_losses_that_cost_nothing_bar_no_key_and_pause_nothing(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    free = "{input: 0, output: 0, cache_write_5m: 0, cache_write_1h: 0, cache_read: 0}"
    config = campaign("brain.kind=local", f"gateway.prices.claude-opus-4-6={free}")
    gateway = make(tmp_path, ledger_actor, Simulated(*[DROPPED] * 7, answer()), config)
    assert asyncio.run(gateway.call(KEY, WHO, request())).charged == 0
    assert gateway.attempts.journal.events(kind="calls_paused") == []


@pytest.mark.parametrize("failures", [[30.0] * 8, [86_400.0]])
def test_an_endpoint_that_is_given_up_still_makes_everybody_wait(
    tmp_path: Path, ledger_actor: FakeLedger, failures: list[float]
) -> None:
    clock = Clock()
    throttled = [
        Failure(Reason.UNAVAILABLE, "429", again=True, throttled=True, retry_after_s=asked) for asked in failures
    ]
    gateway = make(tmp_path, ledger_actor, Simulated(*throttled), clock=clock)

    async def ask() -> float:
        with pytest.raises(RefusedError):
            await gateway.call(KEY, WHO, request())
        before = clock.now
        await gateway.call("other", TEAM[1], request())
        return clock.now - before

    assert asyncio.run(ask()) >= min(failures[-1], 900.0)


def test_after_the_last_attempt_it_is_unavailable_and_the_key_may_be_asked_again(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    endpoint = Simulated(*[OVERLOADED] * 8)
    gateway = make(tmp_path, ledger_actor, endpoint)

    async def ask() -> ModelAnswer:
        with pytest.raises(RefusedError) as caught:
            await gateway.call(KEY, WHO, request())
        assert caught.value.reason == "unavailable"
        assert ledger_actor.reserved() == 0
        return await gateway.call(KEY, WHO, request())

    assert asyncio.run(ask()).charged == ledger_actor.spent()
    assert len(endpoint.sent) == 9


def test_a_model_without_a_price_is_refused_by_name(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    with pytest.raises(RefusedError, match="claude-opus-4-6") as caught:
        asyncio.run(make(tmp_path, ledger_actor, Simulated()).call(KEY, WHO, request(model="gpt")))
    assert caught.value.reason == "unknown_model"


def test_more_than_was_reserved_is_charged_all_the_same(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    message = answer(input_tokens=50_000)
    got = asyncio.run(make(tmp_path, ledger_actor, Simulated(message)).call(KEY, WHO, request()))
    assert got.charged == cost(campaign(), message) == ledger_actor.spent()


def test_what_no_account_can_pay_is_told_and_breaks_no_cap(tmp_path: Path) -> None:
    ledger_actor = FakeLedger(tmp_path / "scheduler.db", usd=0.05)
    message = answer(input_tokens=50_000)
    gateway = make(tmp_path, ledger_actor, Simulated(message))
    got = asyncio.run(gateway.call(KEY, WHO, request()))
    unpaid = [event.payload["usd"] for event in gateway.attempts.journal.events(kind="unpaid")]
    assert ledger_actor.spent() + sum(unpaid) == got.charged == cost(campaign(), message)
    assert ledger_actor.spent() <= 50_000


@pytest.mark.parametrize("usage", [{}, {"input_tokens": 0, "output_tokens": 0}])
def test_an_answer_without_usage_is_charged_at_its_worst_and_says_so(
    tmp_path: Path, ledger_actor: FakeLedger, usage: dict[str, int]
) -> None:
    gateway = make(tmp_path, ledger_actor, Simulated({**answer("x" * 4000), "usage": usage}))
    got = asyncio.run(gateway.call(KEY, WHO, request()))
    (row,) = ledger_actor.store.query("SELECT usd, charged_usd FROM reservations")
    assert got.charged == row["charged_usd"] == row["usd"] > 25 * 1000
    (event,) = gateway.attempts.journal.events(kind="call_answered")
    assert len(event.payload["inexact"]) == 1


@pytest.mark.parametrize(
    ("opening", "fields"),
    [
        ({"input_tokens": 0}, {}),
        ({}, {"betas": ["compact-2026-01-12"], "context_management": {"edits": [{"type": "compact_20260112"}]}}),
    ],
    ids=["no prompt count", "a compaction may follow"],
)
def test_a_stream_whose_opening_does_not_bound_the_bill_lowers_no_worst_case(
    tmp_path: Path, ledger_actor: FakeLedger, opening: dict[str, int], fields: dict[str, Any]
) -> None:
    endpoint = Simulated(answer("ok", **opening))

    def die(step: str) -> None:
        if step == "after answer":
            raise Died

    endpoint.die = die
    gateway = make(tmp_path, ledger_actor, endpoint)
    with pytest.raises(Died):
        asyncio.run(gateway.call(KEY, WHO, request(**fields)))
    gateway.attempts.store.close()
    asyncio.run(make(tmp_path, ledger_actor, Simulated()).billing.finish_stale())
    (row,) = ledger_actor.store.query("SELECT usd, charged_usd FROM reservations")
    assert row["charged_usd"] == row["usd"]


def test_an_answer_of_another_tier_is_charged_the_table_and_says_that_the_bill_may_differ(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    message = answer()
    message["usage"] |= {"service_tier": "priority", "inference_geo": "global"}
    gateway = make(tmp_path, ledger_actor, Simulated(message))
    assert asyncio.run(gateway.call(KEY, WHO, request())).charged == cost(campaign(), message)
    (event,) = gateway.attempts.journal.events(kind="call_answered")
    assert event.payload["inexact"] == ["service_tier: priority"]


def test_a_history_that_goes_on_is_bounded_by_what_the_endpoint_counted(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    long = "word " * 20_000
    endpoint = Simulated(answer("a" * 400, input_tokens=20_000))
    gateway = make(tmp_path, ledger_actor, endpoint)

    async def ask() -> None:
        first = request(long)
        said = (await gateway.call("k0", WHO, first)).message
        more = [*first["messages"], {"role": "assistant", "content": said["content"]}]
        more.append({"role": "user", "content": "go on"})
        await gateway.call("k1", WHO, request(messages=more))

    asyncio.run(ask())
    first, second = ledger_actor.store.query("SELECT usd FROM reservations ORDER BY key")
    assert first["usd"] > 5 * len(long)
    assert second["usd"] < 5 * (20_000 + 4096) + 25 * 1000


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({"max_tokens": 200}, True),
        ({"betas": ["compact-2026-01-12"], "context_management": {"edits": [{"type": "compact_20260112"}]}}, True),
        ({"output_config": {"effort": "low"}}, True),
        ({"system": "another"}, False),
        ({"tools": [{"name": "a", "input_schema": {}}]}, False),
        ({"thinking": {"type": "adaptive"}}, False),
        ({"tool_choice": {"type": "any"}}, False),
        ({"model": "claude-sonnet-4-6"}, False),
    ],
)
def test_what_the_endpoint_counted_bounds_every_request_with_the_same_input(
    tmp_path: Path, ledger_actor: FakeLedger, change: dict[str, Any], counted: bool
) -> None:
    once = [{"type": "message", "input_tokens": 20_000, "output_tokens": 20}]
    message = answer(input_tokens=20_000)
    message["usage"]["iterations"] = once
    gateway, body = make(tmp_path, ledger_actor, Simulated(message)), request("word " * 20_000)
    asyncio.run(gateway.call("k0", WHO, body))
    found = gateway.attempts.counted_bound(RequestParser().parse({**body, **change})[1])
    assert (found == 20_000) is counted
    assert found is None or counted


@pytest.mark.parametrize("usage", [{}, {"iterations": [{"type": "compaction"}, {"type": "message"}]}])
def test_an_answer_that_does_not_tell_its_prompt_bounds_nothing(usage: dict[str, Any]) -> None:
    told = {} if not usage else {"input_tokens": 20_000, "output_tokens": 20, **usage}
    assert recorder.prompt_tokens({"content": [], "usage": told}) is None


def test_an_exchange_reads_back_as_it_was_and_a_long_history_is_stored_once(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    gateway = make(tmp_path, ledger_actor, Simulated())
    turns: list[dict[str, Any]] = []
    sent: dict[str, Any] = {}

    async def ask() -> None:
        for n in range(60):
            text = {"type": "text", "text": f"turn {n} " + "x" * 500, "cache_control": {"type": "ephemeral"}}
            turns.append({"role": "user", "content": [text]})
            body = request(messages=_marked_last(turns), system="s" * 2000)
            sent[f"k{n}"] = body
            said = (await gateway.call(f"k{n}", WHO, body)).message
            turns.append({"role": "assistant", "content": said["content"]})

    asyncio.run(ask())
    db = gateway.attempts.store
    assert db.query("SELECT COUNT(*) AS n FROM nodes")[0]["n"] == 119
    stored = db.query("SELECT SUM(LENGTH(body)) AS n FROM blocks")[0]["n"]
    assert stored < 60 * 600
    with db.transaction() as connection:
        for key, body in sent.items():
            assert load_request(connection, key) == body
        connection.execute("UPDATE blocks SET body = x'00'")
        with pytest.raises(recorder.RecordError):
            load_request(connection, "k0")


def _marked_last(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bare = [
        {**turn, "content": [{k: v for k, v in block.items() if k != "cache_control"} for block in turn["content"]]}
        for turn in turns[:-1]
    ]
    return [*bare, turns[-1]]


def test_a_recording_answers_the_same_keys_without_an_endpoint(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    first = asyncio.run(make(tmp_path, ledger_actor, Simulated(answer("said"))).call(KEY, WHO, request()))
    again = tmp_path / "again"
    other = FakeLedger(again / "scheduler.db")
    replayer = Replayer(tmp_path)
    gateway = make(again, other, replayer)

    async def ask() -> ModelAnswer:
        with pytest.raises(RefusedError, match="no answer to other") as caught:
            await gateway.call("other", WHO, request())
        assert caught.value.reason == "not_recorded"
        assert next_step(caught.value, 0, running=True).action == "give_up"
        return await gateway.call(KEY, WHO, request())

    assert asyncio.run(ask()) == first
    assert other.spent() == ledger_actor.spent()
    assert (replayer.exact, replayer.diverged) == (1, 0)
    with pytest.raises(ConfigError, match=r"brain\.replay_of"):
        Replayer(tmp_path / "nowhere")


def test_a_replay_takes_kind_and_prices_from_the_campaign_that_it_replays(tmp_path: Path) -> None:
    local = campaign("brain.kind=local", "brain.model=mine", "brain.base_url=http://127.0.0.1:8000")
    RunPaths(tmp_path).config.write_text(dump_config(local))
    again = f"brain={{kind: replay, model: mine, replay_of: {tmp_path}}}"
    replayed = as_recorded(campaign(again))
    assert (replayed.brain.kind, replayed.brain.plain, replayed.brain.served) == ("replay", True, False)
    assert tariff_of(replayed).cost(Tokens(input=10**6, output=10**6)) == 0
    assert validate(replayed.model_dump(mode="json")) == replayed
    assert as_recorded(campaign(again.replace("mine", "claude-opus-4-6"))).brain.caches is False

    price = "{input: 1, output: 2, cache_write_5m: 3, cache_write_1h: 4, cache_read: 5}"
    dear = campaign(f"gateway.prices.{MODEL}={price}")
    RunPaths(tmp_path).config.write_text(dump_config(dear))
    replayed = as_recorded(campaign("brain.kind=replay", f"brain.replay_of={tmp_path}"))
    assert (replayed.brain.plain, replayed.brain.caches) == (False, True)
    assert tariff_of(replayed) == tariff_of(dear)

    chosen = ["--preset", "quickstart", "--set", "brain.kind=replay", "--set", f"brain.replay_of={tmp_path}"]
    assert tariff_of(run_campaign.configuration(run_campaign.parse(chosen))) == tariff_of(dear)

    assert as_recorded(local) == local
    for kind in ("explorer", "replay"):
        RunPaths(tmp_path).config.write_text(dump_config(campaign(f"brain.kind={kind}")))
        with pytest.raises(ConfigError, match=r"brain\.replay_of"):
            as_recorded(campaign("brain.kind=replay", f"brain.replay_of={tmp_path}"))
    with pytest.raises(ConfigError, match=r"brain\.replay_of"):
        as_recorded(campaign("brain.kind=replay", f"brain.replay_of={tmp_path / 'nowhere'}"))


def test_closing_charges_what_is_under_way_and_leaves_nothing_reserved(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    endpoint = Simulated()
    gateway = make(tmp_path, ledger_actor, endpoint)

    async def ask() -> None:
        endpoint.hold.clear()
        call = asyncio.ensure_future(gateway.call(KEY, WHO, request()))
        while not endpoint.sent:
            await asyncio.sleep(0)
        await gateway.close()
        assert ledger_actor.reserved() == 0
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(RefusedError):
            await gateway.call("later", WHO, request())

    asyncio.run(ask())
    assert ledger_actor.reserved() == 0
    (row,) = ledger_actor.store.query("SELECT usd, charged_usd FROM reservations")
    assert row["charged_usd"] == row["usd"] > 0


DEATHS = [
    "before reserve",
    "after reserve",
    "before answer",
    "in the stream",
    "after answer",
    "before settle",
    "after settle",
]


@pytest.mark.parametrize("death", DEATHS)
def test_after_a_death_anywhere_the_key_is_answered_and_every_cent_is_accounted(
    tmp_path: Path, ledger_actor: FakeLedger, death: str
) -> None:
    first, second = Simulated(answer("one")), Simulated(answer("two"))
    died = []

    def die(step: str) -> None:
        if step == death:
            died.append(step)
            raise Died

    ledger_actor.die = first.die = die
    gateway = make(tmp_path, ledger_actor, first)
    with contextlib.suppress(Died):
        asyncio.run(gateway.call(KEY, WHO, request()))
    assert died
    gateway.attempts.store.close()
    ledger_actor.die = lambda _: None
    reborn = make(tmp_path, ledger_actor, second)
    got = asyncio.run(reborn.call(KEY, WHO, request()))
    assert ledger_actor.reserved() == 0
    assert got.charged == ledger_actor.spent()
    one, worst = (
        cost(campaign(), answer()),
        ledger_actor.store.query("SELECT MAX(usd) AS usd FROM reservations")[0]["usd"],
    )
    if death in ("before settle", "after settle"):
        assert got.message == answer("one")
        assert (ledger_actor.spent(), second.sent) == (one, [])
    elif death in ("before reserve", "after reserve"):
        assert ledger_actor.spent() == one
    elif death == "before answer":
        assert ledger_actor.spent() == worst + one
    else:
        begun = one + 25 * (1000 - 20)
        assert ledger_actor.spent() == begun + one < worst + one


def test_an_answer_is_settled_before_it_is_given(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    gateway = make(tmp_path, ledger_actor, Simulated())
    assert asyncio.run(gateway.call(KEY, WHO, request())).charged == ledger_actor.spent() == cost(campaign(), answer())
    assert ledger_actor.reserved() == 0


def test_an_answer_whose_settlement_was_not_heard_is_given_and_settled_before_anybody_reserves(tmp_path: Path) -> None:
    """There is room for one call's worst case, not for two."""
    ledger_actor = FakeLedger(tmp_path / "scheduler.db", each=0.05)

    async def scene() -> None:
        gateway = make(tmp_path, ledger_actor, Simulated())
        ledger_actor.deaf = 1
        await gateway.call(KEY, WHO, request())
        assert (ledger_actor.spent(), ledger_actor.reserved() > 0) == (0, True)
        await gateway.call(f"{WHO}/1/model/0", WHO, request())
        assert (ledger_actor.spent(), ledger_actor.reserved()) == (2 * cost(campaign(), answer()), 0)

    asyncio.run(scene())


def test_a_new_gateway_settles_what_the_old_one_owed_before_anybody_reserves(tmp_path: Path) -> None:
    ledger_actor = FakeLedger(tmp_path / "scheduler.db", each=0.05)

    async def round_of_calls(number: int) -> None:
        gateway = make(tmp_path, ledger_actor, Simulated())
        await asyncio.gather(*(gateway.call(f"{who}/{number}/model/0", who, request()) for who in TEAM))
        gateway.attempts.store.close()

    ledger_actor.deaf = len(TEAM)
    asyncio.run(round_of_calls(0))
    assert ledger_actor.spent() == 0
    asyncio.run(round_of_calls(1))
    assert (ledger_actor.spent(), ledger_actor.reserved()) == (6 * cost(campaign(), answer()), 0)


def test_what_is_owed_is_settled_by_a_later_call_when_the_next_could_not(tmp_path: Path) -> None:
    """There is room for one call's worst case, not for two."""
    ledger_actor = FakeLedger(tmp_path / "scheduler.db", each=0.05)

    async def scene() -> None:
        gateway = make(tmp_path, ledger_actor, Simulated())
        ledger_actor.deaf = 2
        await gateway.call(KEY, WHO, request())
        with pytest.raises(UnreachableError):
            await gateway.call(f"{WHO}/1/model/0", WHO, request())
        await gateway.call(f"{WHO}/1/model/0", WHO, request())
        assert (ledger_actor.spent(), ledger_actor.reserved()) == (2 * cost(campaign(), answer()), 0)

    asyncio.run(scene())


def test_what_is_owed_is_settled_before_another_try_reserves(tmp_path: Path) -> None:
    """There is room for the worst case of two calls, not of three: of the lost answer, the one owed and the next."""
    ledger_actor = FakeLedger(tmp_path / "scheduler.db", each=0.09)
    gateway = make(tmp_path, ledger_actor, Simulated(DROPPED))

    async def meanwhile(_: float) -> None:
        ledger_actor.deaf = 1
        await gateway.call(f"{WHO}/1/model/0", WHO, request())
        assert ledger_actor.reserved() > 0

    gateway._sleep = meanwhile
    got = asyncio.run(gateway.call(KEY, WHO, request()))
    assert (ledger_actor.spent(), ledger_actor.reserved()) == (got.charged + cost(campaign(), answer()), 0)


def test_settling_what_one_call_owes_leaves_the_calls_under_way_alone(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    endpoint = Simulated()
    endpoint.pause = lambda: 0
    gateway = make(tmp_path, ledger_actor, endpoint)

    async def scene() -> None:
        gate = endpoint.hold
        gate.clear()
        under_way = asyncio.ensure_future(gateway.call(KEY, WHO, request()))
        while not endpoint.sent:
            await asyncio.sleep(0)
        endpoint.hold = asyncio.Event()  # the call under way waits at the old one
        endpoint.hold.set()
        ledger_actor.deaf = 1
        for n in (1, 2):
            await gateway.call(f"{WHO}/{n}/model/0", WHO, request())
        assert ledger_actor.spent() == 2 * cost(campaign(), answer())
        gate.set()
        assert (await under_way).charged == cost(campaign(), answer())

    asyncio.run(scene())
    assert (ledger_actor.spent(), ledger_actor.reserved()) == (3 * cost(campaign(), answer()), 0)


def test_a_lost_attempt_that_the_ledger_did_not_hear_of_is_settled_once(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    async def scene() -> None:
        gateway = make(tmp_path, ledger_actor, Simulated(DROPPED))
        ledger_actor.deaf = 1
        with pytest.raises(UnreachableError):
            await gateway.call(KEY, WHO, request())
        await gateway.call(f"{TEAM[1]}/0/model/0", TEAM[1], request())
        spent = ledger_actor.spent()
        await gateway.close()
        assert ledger_actor.spent() == spent > cost(campaign(), answer())

    asyncio.run(scene())
    assert ledger_actor.reserved() == 0


def test_a_key_cannot_be_too_long(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    with pytest.raises(RefusedError):
        asyncio.run(make(tmp_path, ledger_actor, Simulated()).call("k" * 300, WHO, request()))


def test_status_counts_tokens_dollars_and_the_share_read_from_the_cache(
    tmp_path: Path, ledger_actor: FakeLedger
) -> None:
    message = answer(input_tokens=100, cache_read_input_tokens=900)
    gateway = make(tmp_path, ledger_actor, Simulated(OVERLOADED, message))
    asyncio.run(gateway.call(KEY, WHO, request()))
    status = gateway.status()
    assert status["cache_hit_share"] == 0.9
    tally = status["researchers"][WHO]
    assert (tally["calls"], tally["retries"], tally["usd"]) == (1, 1, ledger_actor.spent())
    assert tally["tokens"] == Tokens(input=100, cache_read=900, output=20).to_dict()


def test_the_gateways_store_is_one_of_the_campaigns_journals(tmp_path: Path, ledger_actor: FakeLedger) -> None:
    asyncio.run(make(tmp_path, ledger_actor, Simulated()).call(KEY, WHO, request()))
    assert RunPaths(tmp_path).databases()["gateway"] == tmp_path / "gateway.db"
    db = open_readonly(tmp_path / "gateway.db")
    assert db.execute("SELECT COUNT(*) FROM journal WHERE kind = 'call_answered'").fetchone()[0] == 1
