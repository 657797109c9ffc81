"""No interleaving, failure or death of the gateway breaks a cap or loses a cent: a state machine on a real ledger.

Researchers hold conversations that grow turn by turn, as the brain builds them: with breakpoints that move on, with
summaries that cut them, and with compactions by the endpoint. What was recorded is given again without an endpoint.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.gateway import recorder
from actors.gateway.billing import MOST_LOSSES
from actors.gateway.gateway import Gateway
from actors.gateway.pricing import Tokens, billed, tokens_of
from actors.gateway.replayer import Replayer
from actors.gateway.requests import HIDDEN_TOKENS, Body, canonical, digest, without_marks
from actors.gateway.retries import Failure
from actors.researcher.brains.llm.conversation import Conversation
from actors.researcher.brains.llm.requests import Requests
from cluster.errors import Reason, RefusedError
from cluster.remote import UnreachableError
from cluster.store import Store
from tests.fake_messages.cache import segments
from tests.unit.actors.gateway_world import (
    MEMORY,
    TEAM,
    Clock,
    Died,
    FakeLedger,
    Outcome,
    Simulated,
    answer,
    campaign,
    tariff,
)

BUDGETS = ((4.0, 2.0), (0.6, 0.25))
"""Dollars of the campaign and of each researcher: enough for most, and soon used up."""
CONFIG = campaign(
    "gateway.attempts=3",
    "gateway.concurrent_calls=2",
    "gateway.input_tokens_per_minute=100000000",
    "brain.max_tokens=2000",
    "brain.thinking_tokens=null",
    "brain.compact_at=12000",
)
STEPS = ("reserve", "settle", "release", "spend", "answer")
DEATHS = [f"{when} {step}" for step in STEPS for when in ("before", "after")] + ["in the stream"]
LONGEST_CUT = 2


@dataclass(frozen=True)
class Told:
    """An answer of an endpoint that counts as it should. It is as short as it can be or as long as it may be, finds
    nothing in its cache when that is `cold`, and `compacts` first when it was asked to.
    """

    long: bool = False
    cold: bool = False
    compacts: bool = False


class Vendor(Simulated):
    """An endpoint that bills every byte of a prompt as a token and keeps prefixes that end at a breakpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.coming: list[Told | Outcome] = []
        self._kept: set[str] = set()

    def outcome(self, body: Body) -> Outcome:
        wanted = self.coming.pop(0) if self.coming else Told()
        return self._told(body, wanted) if isinstance(wanted, Told) else wanted

    def _told(self, body: Body, told: Told) -> dict[str, Any]:
        if told.cold:
            self._kept.clear()
        output = body.max_tokens if told.long else 1
        usage = self._input(body.fields) | {"output_tokens": output}
        said: list[dict[str, Any]] = [{"type": "text", "text": "w" * output}]
        if told.compacts and body.compacts:
            whole = usage["input_tokens"] + usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
            work = {"type": "compaction", "input_tokens": whole, "output_tokens": body.max_tokens}
            usage = {"input_tokens": 50, "output_tokens": output}
            usage["iterations"] = [work, {"type": "message", **usage}]
            said = [{"type": "compaction", "content": "what came before"}, *said]
        return {"role": "assistant", "content": said, "stop_reason": "end_turn", "usage": usage}

    def _input(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The input side of a usage."""
        size = read = marked = 0
        prefix = ""
        for part in segments(fields):
            size += len(part.body.encode())
            prefix = digest(f"{prefix}{part.body}".encode())
            if part.ttl is not None:
                read, marked = (size if prefix in self._kept else read), size
                self._kept.add(prefix)
        written = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": marked - read}
        return {
            "input_tokens": size - marked,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": marked - read,
            "cache_creation": written,
        }


@dataclass
class Talk:
    """One researcher's conversation, and the calls that were made of it: `asked` under their keys, in order."""

    researcher: str
    known: Conversation = field(default_factory=Conversation)
    turn: int = 0
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: Requests = field(
        default_factory=lambda: Requests(
            CONFIG.brain, "s" * 500, [{"name": "wait", "description": "d" * 200, "input_schema": {"type": "object"}}]
        )
    )

    def next(self, letters: int) -> str:
        """The key of the turn that comes next; its question is made once."""
        key = f"{self.researcher}/{self.turn}/model/0"
        if key not in self.asked:
            talk = self.known.copy()
            talk.add({"role": "user", "content": [{"type": "text", "text": f"{self.turn} " + "q" * letters}]})
            self.asked[key] = self.requests.turn(talk.messages, talk.tokens)
        return key

    def aside(self) -> str:
        """A summary of the history as it stands: another question after the same messages."""
        key = f"{self.researcher}/{self.turn}/summary/0"
        if key not in self.asked:
            talk = self.known.copy()
            talk.add({"role": "user", "content": [{"type": "text", "text": "Sum it up."}]})
            self.asked[key] = self.requests.last(talk.messages, 300)
        return key

    def earlier(self, number: int) -> str | None:
        """The key of a call that was asked before."""
        return list(self.asked)[number % len(self.asked)] if self.asked else None

    def go_on(self, message: dict[str, Any]) -> None:
        """The next turn was answered."""
        body = self.asked[f"{self.researcher}/{self.turn}/model/0"]
        bare, _ = without_marks(body["messages"][-1])
        self.known.add({"role": "user", "content": bare["content"][-1:]})
        self.known.add({**message, "role": "assistant"})
        self.turn += 1

    def cut(self, keep: int) -> None:
        """Older messages go; a text stands in their place."""
        if len(self.known.messages) > keep:
            self.known.add({"role": "summary", "content": f"cut before turn {self.turn}", "keep": keep})


honest = st.builds(Told, st.booleans(), st.booleans(), st.booleans())
failures = st.sampled_from(
    [
        Failure(Reason.UNAVAILABLE, "overloaded", again=True),
        Failure(Reason.UNAVAILABLE, "dropped", again=True, billed=True),
        Failure(Reason.BAD_REQUEST, "no"),
    ]
)
strange = st.builds(
    lambda a, b, c, d: answer(
        input_tokens=a, cache_read_input_tokens=b, cache_creation_input_tokens=c, output_tokens=d
    ),
    *[st.integers(0, 5000) for _ in range(3)],
    st.integers(1, 200),
)
wishes = st.lists(
    st.tuples(
        st.integers(0, len(TEAM) - 1),
        st.sampled_from(["next", "next", "next", "aside", "earlier"]),
        st.integers(0, 4000),
    ),
    min_size=1,
    max_size=5,
)


def due(message: dict[str, Any]) -> int:
    """What an answer costs; every request asks for a cache of an hour."""
    return tariff(CONFIG).cost(tokens_of(message["usage"], long_cache=True))


class GatewayMachine(RuleBasedStateMachine):
    """Rounds of calls at once; in some of them the gateway dies at a step and another takes over."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY))
        self._open(BUDGETS[0])
        self.talks = [Talk(name) for name in TEAM]
        self.answers: dict[str, dict[str, Any]] = {}
        self.certain = self.honest = True

    def _open(self, budgets: tuple[float, float]) -> None:
        self.ledger_actor = FakeLedger(self.root / f"scheduler-{budgets[0]}.db", *budgets)
        self.endpoint = Vendor()
        self.gateway = self._born()

    def _born(self) -> Gateway:
        store, clock = Store(self.root / "gateway.db"), Clock()
        return Gateway(store, CONFIG, self.ledger_actor.client(), self.endpoint, clock=clock, sleep=clock.sleep)

    @initialize(honest=st.booleans(), budgets=st.sampled_from(BUDGETS))
    def world_of_a_kind(self, honest: bool, budgets: tuple[float, float]) -> None:
        """An endpoint that counts as it should, or one that may say anything; much money or little."""
        self.honest = honest
        self._close()
        self._open(budgets)

    @rule(
        wanted=wishes,
        coming=st.lists(honest | honest | failures | strange, max_size=6),
        pauses=st.lists(st.integers(0, 3), min_size=1, max_size=5),
        death=st.none() | st.none() | st.tuples(st.sampled_from(DEATHS), st.integers(0, 3)),
        deaf=st.just(0) | st.integers(1, 3),
        asked_first=st.booleans(),
    )
    def calls_at_once(
        self,
        wanted: list[tuple[int, str, int]],
        coming: list[Told | Outcome],
        pauses: list[int],
        death: tuple[str, int] | None,
        deaf: int,
        asked_first: bool,
    ) -> None:
        """`deaf`: settlements that the ledger does not hear of; `asked_first`: whether a new gateway is called before
        it has settled what the old one owed.
        """
        if self.honest:
            coming = [one for one in coming if not isinstance(one, dict)]
        self.endpoint.coming = list(coming)
        self.certain &= not any(isinstance(outcome, Failure) and outcome.billed for outcome in coming)
        self.certain &= all(billed(outcome) is not None for outcome in coming if isinstance(outcome, dict))
        cycle = itertools.cycle(pauses)
        self.ledger_actor.pause = self.endpoint.pause = lambda: next(cycle)
        countdown = [0 if death is None else death[1]]

        def die(step: str) -> None:
            if death is not None and step == death[0]:
                countdown[0] -= 1
                if countdown[0] < 0:
                    self.died.set()
                    raise Died

        self.ledger_actor.die = self.endpoint.die = die
        self.ledger_actor.deaf = deaf
        died = asyncio.run(self._round(wanted))
        self.ledger_actor.die = self.endpoint.die = lambda _: None
        self.ledger_actor.deaf = 0
        if died:
            self.certain = False
            self.gateway = self._born()
            if asked_first:
                asyncio.run(self._round(wanted))
        asyncio.run(self.gateway.billing.finish_stale())
        for talk in self.talks:
            message = self.answers.get(f"{talk.researcher}/{talk.turn}/model/0")
            if message is not None:
                talk.go_on(message)

    async def _round(self, wanted: list[tuple[int, str, int]]) -> bool:
        found = [(self.talks[who], self._key(self.talks[who], wish, number)) for who, wish, number in wanted]
        self.died = asyncio.Event()
        work = asyncio.ensure_future(self._all([self._ask(talk, key) for talk, key in found if key is not None]))
        death = asyncio.ensure_future(self.died.wait())
        await asyncio.wait((work, death), return_when=asyncio.FIRST_COMPLETED)
        if self.died.is_set():
            self.gateway.attempts.store.close()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(work, *rest, return_exceptions=True)
            return True
        death.cancel()
        await work
        return False

    async def _all(self, calls: list[Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*calls)

    def _key(self, talk: Talk, wish: str, number: int) -> str | None:
        makers: dict[str, Callable[[], str | None]] = {
            "next": lambda: talk.next(number),
            "aside": talk.aside,
            "earlier": lambda: talk.earlier(number),
        }
        return makers[wish]()

    async def _ask(self, talk: Talk, key: str) -> None:
        try:
            got = await self.gateway.call(key, talk.researcher, talk.asked[key])
        except UnreachableError:
            return
        except RefusedError as error:
            if error.reason in ("over_budget", "unavailable", "bad_request", "lost"):
                return
            raise
        assert self.answers.setdefault(key, got.message) == got.message
        assert got.charged == self.gateway.attempts.charged(key)

    @rule(who=st.integers(0, len(TEAM) - 1), keep=st.integers(0, LONGEST_CUT))
    def a_history_is_cut(self, who: int, keep: int) -> None:
        self.talks[who].cut(keep)

    @rule()
    def dies_at_rest(self) -> None:
        self.gateway.attempts.store.close()
        self.gateway = self._born()

    @rule()
    def what_was_recorded_is_given_again_without_an_endpoint(self) -> None:
        with self.gateway.attempts.store.transaction() as db:
            assert recorder.damaged(db) == []
            nodes = db.execute("SELECT COUNT(*) AS n FROM nodes").fetchone()["n"]
            kept = {row["key"] for row in db.execute("SELECT key FROM exchanges")}
            answered = {key: body for talk in self.talks for key, body in talk.asked.items() if key in kept}
            assert kept == set(answered)
            for key, body in answered.items():
                assert recorder.load_request(db, key) == body
        # Each beginning of a history is stored once, however many requests go on from it.
        bare = [[canonical(without_marks(m)[0]) for m in body["messages"]] for body in answered.values()]
        assert nodes == len({tuple(one[:n]) for one in bare for n in range(1, len(one) + 1)})
        asyncio.run(self._replay(answered))

    async def _replay(self, answered: dict[str, dict[str, Any]]) -> None:
        root = Path(tempfile.mkdtemp(dir=MEMORY))
        replayer, clock = Replayer(self.root), Clock()
        ledger_actor = FakeLedger(root / "scheduler.db", 1000, 1000)
        again = Gateway(
            Store(root / "gateway.db"), CONFIG, ledger_actor.client(), replayer, clock=clock, sleep=clock.sleep
        )
        try:
            for key, body in answered.items():
                got = await again.call(key, key.split("/")[0], body)
                assert got.message == self.gateway.attempts.answer(key)
                assert got.charged == due(got.message) or billed(got.message) is None
            assert (replayer.exact, replayer.diverged) == (len(answered), 0)
        finally:
            await again.close()
            again.attempts.store.close()
            ledger_actor.store.close()
            shutil.rmtree(root)

    @invariant()
    def no_account_is_above_its_cap(self) -> None:
        for name in self.ledger_actor.ledger.accounts():
            balance = self.ledger_actor.ledger.balance(name)
            cap = balance.caps.usd
            assert cap is None or balance.spent.usd + balance.reserved.usd <= cap

    @invariant()
    def nothing_stays_reserved(self) -> None:
        assert self.ledger_actor.reserved() == 0
        assert self.gateway.attempts.unclosed() == []

    @invariant()
    def the_books_agree_and_cover_the_vendors_bill(self) -> None:
        events = self.gateway.attempts.journal.events()
        unpaid = sum(event.payload["usd"] for event in events if event.kind == "unpaid")
        told = sum(event.payload["usd"] for event in events if event.kind in ("call_answered", "attempt_lost"))
        assert self.ledger_actor.spent() + unpaid == told
        bill = sum(due(message) for message in self.endpoint.answers)
        assert told == bill if self.certain else told >= bill

    @invariant()
    def an_endpoint_that_counts_as_it_should_never_costs_more_than_was_reserved(self) -> None:
        if not self.honest:
            return
        for event in self.gateway.attempts.journal.events():
            assert event.kind != "unpaid"
            assert event.payload.get("usd", 0) <= event.payload.get("reserved", 0)

    @invariant()
    def a_turn_reserves_no_more_than_what_was_counted_before_it_and_what_it_adds(self) -> None:
        dear = tariff(CONFIG).cost(Tokens(cache_write_1h=1_000_000)) / 1e6
        for event in self.gateway.attempts.journal.events(kind="call_answered"):
            researcher, turn, kind, _ = event.payload["key"].split("/")
            talk = next(talk for talk in self.talks if talk.researcher == researcher)
            before = self.answers.get(f"{researcher}/{int(turn) - 1}/model/0")
            earlier = talk.asked.get(f"{researcher}/{int(turn) - 1}/model/0")
            body = talk.asked[event.payload["key"]]
            if kind != "model" or before is None or earlier is None or "context_management" in body:
                continue
            counted = recorder.prompt_tokens(before)
            old, new = ([without_marks(m)[0] for m in b["messages"]] for b in (earlier, body))
            if counted is None or new[: len(old)] != old:
                continue
            added = sum(len(canonical(message)) for message in new[len(old) :])
            most = dear * (counted + added + HIDDEN_TOKENS) + tariff(CONFIG).cost(Tokens(output=body["max_tokens"]))
            assert event.payload["reserved"] <= most + 1

    @invariant()
    def what_was_answered_was_charged_its_usage_or_says_that_it_told_none(self) -> None:
        answered = self.gateway.attempts.journal.events(kind="call_answered")
        assert len({event.payload["key"] for event in answered}) == len(answered)
        for event in answered:
            message = self.gateway.attempts.answer(event.payload["key"])
            assert message is not None
            if billed(message) is None:
                assert event.payload["inexact"]
                assert event.payload["usd"] >= due(message)
            else:
                assert event.payload["usd"] == due(message)

    @invariant()
    def no_key_pays_for_more_losses_than_may_be(self) -> None:
        lost = Counter(event.payload["key"] for event in self.gateway.attempts.journal.events(kind="attempt_lost"))
        assert all(times <= MOST_LOSSES for times in lost.values())

    def _close(self) -> None:
        self.gateway.attempts.store.close()
        self.ledger_actor.store.close()

    def teardown(self) -> None:
        self._close()
        shutil.rmtree(self.root)


TestGatewayMachine = GatewayMachine.TestCase
TestGatewayMachine.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)
