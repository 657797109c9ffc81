"""No interleaving, failure or death of the gateway breaks a cap or loses a cent: a state machine on a real ledger."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.gateway.gateway import MOST_LOSSES, Gateway
from actors.gateway.pricing import billed
from actors.gateway.retry import Failure
from cluster.errors import RefusedError
from cluster.store import Store
from tests.unit.actors.gateway_world import (
    MEMORY,
    TEAM,
    Clock,
    Desk,
    Died,
    Outcome,
    Simulated,
    answer,
    campaign,
    cost,
    request,
)

CAMPAIGN_USD, EACH_USD = 0.3, 0.15
CONFIG = campaign("gateway.attempts=3", "gateway.concurrent_calls=2")
STEPS = ("reserve", "settle", "release", "spend", "answer")
DEATHS = [f"{when} {step}" for step in STEPS for when in ("before", "after")] + ["in the stream"]

outcomes = st.one_of(
    st.builds(
        lambda a, b, c, d: answer(
            input_tokens=a, cache_read_input_tokens=b, cache_creation_input_tokens=c, output_tokens=d
        ),
        *[st.integers(0, 500) for _ in range(3)],
        st.integers(1, 200),
    ),
    st.sampled_from(
        [
            Failure("unavailable", "overloaded", again=True),
            Failure("unavailable", "dropped", again=True, billed=True),
            Failure("bad_request", "no"),
        ]
    ),
)
calls = st.lists(st.tuples(st.integers(0, 7), st.integers(20, 200)), min_size=1, max_size=4)


class GatewayMachine(RuleBasedStateMachine):
    """Rounds of calls at once; in some of them the gateway dies at a step and another takes over."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY))
        self.desk = Desk(self.root / "scheduler.db", CAMPAIGN_USD, EACH_USD)
        self.endpoint = Simulated()
        self.gateway = self._born()
        self.answers: dict[str, dict[str, Any]] = {}
        self.certain = True

    def _born(self) -> Gateway:
        store, clock = Store(self.root / "gateway.db"), Clock()
        return Gateway(store, CONFIG, self.desk, self.endpoint, clock=clock, sleep=clock.sleep)

    @rule(
        wanted=calls,
        coming=st.lists(outcomes, max_size=6),
        pauses=st.lists(st.integers(0, 3), min_size=1, max_size=5),
        death=st.none() | st.tuples(st.sampled_from(DEATHS), st.integers(0, 3)),
    )
    def calls_at_once(
        self,
        wanted: list[tuple[int, int]],
        coming: list[Outcome],
        pauses: list[int],
        death: tuple[str, int] | None,
    ) -> None:
        self.endpoint.outcomes[:] = coming
        self.certain &= not any(isinstance(outcome, Failure) and outcome.billed for outcome in coming)
        self.certain &= all(isinstance(outcome, Failure) or billed(outcome) for outcome in coming)
        cycle = itertools.cycle(pauses)
        self.desk.pause = self.endpoint.pause = lambda: next(cycle)
        countdown = [0 if death is None else death[1]]

        def die(step: str) -> None:
            if death is not None and step == death[0]:
                countdown[0] -= 1
                if countdown[0] < 0:
                    raise Died

        self.desk.die = self.endpoint.die = die
        died = asyncio.run(self._round(wanted))
        self.desk.die = self.endpoint.die = lambda _: None
        if died:
            self.certain = False
            self.gateway = self._born()
            asyncio.run(self.gateway.tidy())

    async def _round(self, wanted: list[tuple[int, int]]) -> bool:
        tasks = [asyncio.ensure_future(self._ask(f"k{number}", tokens)) for number, tokens in wanted]
        try:
            await asyncio.gather(*tasks)
        except Died:
            self.gateway.book.store.close()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            return True
        return False

    async def _ask(self, key: str, tokens: int) -> None:
        body = request(f"question {key}", max_tokens=tokens, system=[_marked("s" * 500)])
        try:
            got = await self.gateway.call(key, TEAM[int(key[1:]) % len(TEAM)], body)
        except RefusedError as error:
            if error.reason in ("over_budget", "unavailable", "bad_request", "lost"):
                return
            raise
        assert self.answers.setdefault(key, got["message"]) == got["message"]
        assert got["charged"] == self.gateway.book.charged(key)

    @rule()
    def dies_at_rest(self) -> None:
        self.gateway.book.store.close()
        self.gateway = self._born()

    @invariant()
    def no_account_is_above_its_cap(self) -> None:
        for name in self.desk.ledger.accounts():
            balance = self.desk.ledger.balance(name)
            cap = balance["caps"]["usd"]
            assert cap is None or balance["spent"]["usd"] + balance["reserved"]["usd"] <= cap

    @invariant()
    def nothing_stays_reserved(self) -> None:
        assert self.desk.reserved() == 0
        assert self.gateway.book.live() == []

    @invariant()
    def the_books_agree_and_cover_the_vendors_bill(self) -> None:
        events = self.gateway.book.journal.events()
        unpaid = sum(event.payload["usd"] for event in events if event.kind == "unpaid")
        told = sum(event.payload["usd"] for event in events if event.kind in ("call_answered", "attempt_lost"))
        assert self.desk.spent() + unpaid == told
        bill = sum(cost(CONFIG, message) for message in self.endpoint.answers)
        assert told == bill if self.certain else told >= bill

    @invariant()
    def what_was_answered_was_charged_its_usage_or_says_that_it_told_none(self) -> None:
        answered = self.gateway.book.journal.events(kind="call_answered")
        assert len({event.payload["key"] for event in answered}) == len(answered)
        for event in answered:
            message = self.gateway.book.answer(event.payload["key"])
            assert message is not None
            if billed(message) is None:
                assert event.payload["inexact"]
                assert event.payload["usd"] >= cost(CONFIG, message)
            else:
                assert event.payload["usd"] == cost(CONFIG, message)

    @invariant()
    def no_key_pays_for_more_losses_than_may_be(self) -> None:
        lost = Counter(event.payload["key"] for event in self.gateway.book.journal.events(kind="attempt_lost"))
        assert all(times <= MOST_LOSSES for times in lost.values())

    def teardown(self) -> None:
        self.gateway.book.store.close()
        self.desk.store.close()
        shutil.rmtree(self.root)


def _marked(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


TestGatewayMachine = GatewayMachine.TestCase
TestGatewayMachine.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)
