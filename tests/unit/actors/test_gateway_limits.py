"""Limits, turns and retries: pure, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gateway.rate_limiter import CircuitBreaker, Estimate, RateLimiter, RateLimits
from actors.gateway.retries import Failure, backoff_seconds, next_wait
from cluster.config import Gateway
from cluster.errors import Reason

SMALL = Gateway(requests_per_minute=60, input_tokens_per_minute=6000, output_tokens_per_minute=1200, concurrent_calls=4)


def test_a_call_that_is_cancelled_as_its_turn_comes_keeps_no_place() -> None:
    async def play() -> list[str]:
        limiter = RateLimiter(SMALL.model_copy(update={"concurrent_calls": 1}), lambda: 0.0)
        entered: list[str] = []

        async def call(ticket: str, leave: asyncio.Event) -> None:
            async with limiter.admit(ticket, "a", Estimate(1, 1)):
                entered.append(ticket)
                await leave.wait()

        leave, left = asyncio.Event(), asyncio.Event()
        left.set()
        first = asyncio.create_task(call("first", leave))
        await asyncio.sleep(0)
        second = asyncio.create_task(call("second", left))
        third = asyncio.create_task(call("third", left))
        await asyncio.sleep(0)
        leave.set()
        second.cancel()  # its future is cancelled now, and it hears of that only after `first` has given up its place
        ended = await asyncio.wait_for(asyncio.gather(first, second, third, return_exceptions=True), 5)
        assert [type(one) for one in ended] == [type(None), asyncio.CancelledError, type(None)]
        assert limiter.status().items() >= {"running": 0, "waiting": 0}.items()
        return entered

    assert asyncio.run(play()) == ["first", "third"]


def test_a_bucket_lets_one_minutes_worth_through_at_once_and_then_refills() -> None:
    limits = RateLimits(SMALL.model_copy(update={"concurrent_calls": 1000, "input_tokens_per_minute": 10**9}), 0.0)
    for n in range(100):
        limits.enqueue(f"t{n}", "a", Estimate(1, 0))
    assert len(limits.start_due(0.0)) == 60
    assert limits.next_start(0.0) == 1.0
    assert len(limits.start_due(10.0)) == 10


def test_a_call_that_used_more_than_its_estimate_delays_the_next() -> None:
    limits = RateLimits(SMALL, 0.0)
    limits.enqueue("one", "a", Estimate(10, 10))
    assert limits.start_due(0.0) == ["one"]
    limits.end("one", Estimate(10, 2400), 0.0)
    limits.enqueue("two", "a", Estimate(10, 10))
    assert limits.start_due(0.0) == []
    assert limits.start_due(59.0) == []
    assert limits.start_due(61.0) == ["two"]


def test_a_pause_stops_everybody_and_ends() -> None:
    limits = RateLimits(SMALL, 0.0)
    limits.pause_all(7.0, 0.0)
    limits.enqueue("one", "a", Estimate(1, 1))
    assert limits.start_due(6.9) == []
    assert limits.next_start(5.0) == 2.0
    assert limits.start_due(7.0) == ["one"]


def test_a_researcher_with_many_calls_does_not_keep_another_waiting() -> None:
    limits = RateLimits(SMALL.model_copy(update={"concurrent_calls": 1}), 0.0)
    for n in range(20):
        limits.enqueue(f"a{n}", "a", Estimate(10, 10))
    assert limits.start_due(0.0) == ["a0"]
    limits.enqueue("b0", "b", Estimate(10, 10))
    limits.end("a0", Estimate(10, 10), 1.0)
    assert limits.start_due(1.0) == ["b0"]


def test_one_who_withdraws_does_not_start() -> None:
    limits = RateLimits(SMALL, 0.0)
    limits.enqueue("one", "a", Estimate(1, 1))
    limits.withdraw("one")
    assert limits.start_due(0.0) == []
    assert limits.next_start(0.0) is None


calls = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 3), st.integers(0, 3000), st.integers(0, 600)), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(calls, st.integers(0, 2**32))
def test_rates_concurrency_and_order_hold_for_any_load(load: list[tuple[str, float, int, int]], chance: int) -> None:
    """Every call starts once, in its researcher's order; starts and tokens stay below the limits in every window."""
    rng = random.Random(chance)
    limits, now = RateLimits(SMALL, 0.0), 0.0
    started: list[tuple[float, str]] = []
    taken: list[tuple[float, int]] = []
    running: dict[str, tuple[int, int]] = {}
    asked = {f"{n}": (who, used_in, used_out) for n, (who, _, used_in, used_out) in enumerate(load)}
    coming = [(f"{n}", gap) for n, (_, gap, _, _) in enumerate(load)]
    while coming or limits.waiting or running:
        if coming and (rng.random() < 0.5 or not (limits.waiting or running)):
            ticket, gap = coming.pop(0)
            now += gap
            limits.enqueue(ticket, asked[ticket][0], Estimate(asked[ticket][1], asked[ticket][2]))
        elif running and rng.random() < 0.5:
            ticket = rng.choice(sorted(running))
            limits.end(ticket, Estimate(*running.pop(ticket)), now)
        else:
            now += (limits.next_start(now) or 0.0) + 1e-6
        for ticket in limits.start_due(now):
            started.append((now, ticket))
            taken.append((now, asked[ticket][1]))
            running[ticket] = asked[ticket][1:]
        assert limits.running == len(running) <= SMALL.concurrent_calls
    assert Counter(ticket for _, ticket in started) == Counter(list(asked))
    for who in "abc":
        mine = [int(ticket) for _, ticket in started if asked[ticket][0] == who]
        assert mine == sorted(mine)
    for at, _ in started:
        window = [(t, tokens) for t, tokens in taken if at <= t < at + 60]
        assert len(window) <= 2 * SMALL.requests_per_minute
        largest = max((tokens for _, tokens in window), default=0)
        assert sum(tokens for _, tokens in window) <= 2 * SMALL.input_tokens_per_minute + largest


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30))
def test_of_two_who_always_wait_neither_gets_more_than_one_call_ahead_in_use(a_tokens: int, b_tokens: int) -> None:
    limits = RateLimits(Gateway(concurrent_calls=1, requests_per_minute=10**6), 0.0)
    sizes = {"a": a_tokens * 100, "b": b_tokens * 100}
    used = {"a": 0, "b": 0}
    for n in range(200):
        for who in "ab":
            limits.enqueue(f"{who}{n}", who, Estimate(sizes[who], 0))
    for _ in range(200):
        (ticket,) = limits.start_due(0.0) or ["none"]
        if ticket == "none":
            break
        used[ticket[0]] += sizes[ticket[0]]
        limits.end(ticket, Estimate(sizes[ticket[0]], 0), 0.0)
        assert abs(used["a"] - used["b"]) <= max(sizes.values()) + 1000


def test_pauses_double_with_jitter_up_to_the_limit_and_never_undercut_the_endpoint() -> None:
    settings_ = Gateway(attempts=20, longest_wait_seconds=30)
    failure = Failure(Reason.UNAVAILABLE, "overloaded", again=True)
    for attempts in range(1, 12):
        for seed in range(20):
            wait = next_wait(failure, attempts, settings_, random.Random(seed))
            assert wait is not None
            full = min(30.0, 2.0 ** (attempts - 1))
            assert full / 2 <= wait <= full
    asked = Failure(Reason.UNAVAILABLE, "slow", again=True, retry_after_s=77.0)
    wait = next_wait(asked, 1, settings_, random.Random(0))
    assert wait is not None
    assert wait == 77.0


def test_the_same_stream_gives_the_same_pause() -> None:
    failure = Failure(Reason.UNAVAILABLE, "x", again=True)
    pauses = {next_wait(failure, 3, SMALL, random.Random("7/key/3")) for _ in range(5)}
    assert len(pauses) == 1


def test_it_gives_up_after_the_last_attempt_and_on_what_will_not_change() -> None:
    failure = Failure(Reason.UNAVAILABLE, "x", again=True)
    assert next_wait(failure, SMALL.attempts, SMALL, random.Random(0)) is None
    assert next_wait(Failure(Reason.BAD_KEY, "x"), 1, SMALL, random.Random(0)) is None
    patient = Failure(Reason.UNAVAILABLE, "come back tomorrow", again=True, retry_after_s=86_400.0)
    assert next_wait(patient, 1, SMALL, random.Random(0)) is None
    assert backoff_seconds(patient, 1, SMALL, random.Random(0)) == 900.0


def test_who_recovers_lets_one_call_through_at_a_time() -> None:
    limits = RateLimits(SMALL, 0.0)
    limits.one_at_a_time = True
    for name in "abc":
        limits.enqueue(name, name, Estimate(1, 1))
    assert limits.start_due(0.0) == ["a"]
    assert limits.next_start(0.0) is None
    limits.end("a", Estimate(1, 1), 0.0)
    assert limits.start_due(0.0) == ["b"]
    limits.one_at_a_time = False
    assert limits.start_due(0.0) == ["c"]


def test_pauses_after_losses_begin_with_the_fifth_in_a_row_and_double_up_to_an_hour() -> None:
    breaker, now, pauses = CircuitBreaker(), 0.0, list[float]()
    assert [breaker.record_loss(now) for _ in range(4)] == [None] * 4
    for _ in range(8):
        pauses.append(breaker.record_loss(now) or 0.0)
        assert breaker.record_loss(now + 1) is None
        now += pauses[-1]
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    breaker.record_answer()
    assert [breaker.record_loss(now) for _ in range(5)] == [None] * 4 + [60.0]
