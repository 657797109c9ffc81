"""The ledger: caps hold always, reservations end once, keys make calls idempotent, crashes lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from actors.scheduler.audit import audit
from actors.scheduler.book import Book
from actors.scheduler.ledger import MAX_AMOUNT, Ledger
from cluster.errors import RefusedError
from cluster.journal import Journal
from cluster.money import DIMENSIONS, Amounts, Balance, Caps
from cluster.store import Store, open_readonly
from tests.unit.actors.scheduler_fakes import Camera, image, scratch

ONE = Amounts(usd=1)


class Bench:
    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.journal = Journal(self.store)
        self.ledger = Ledger(self.store, self.journal)
        Book(self.store)

    def close(self) -> None:
        self.store.close()

    def balances(self) -> dict[str, Balance]:
        return {name: self.ledger.balance(name) for name in self.ledger.accounts()}


@pytest.fixture
def bench() -> Iterator[Bench]:
    with scratch() as directory:
        made = Bench(directory / "s.db")
        made.ledger.open("c", None, Caps(usd=100, gpu_ms=50))
        made.ledger.open("c/a", "c", Caps(usd=60))
        made.ledger.open("c/b", "c", Caps())
        yield made
        made.close()


def refusal(bench: Bench, *args: object, call: str = "reserve") -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        getattr(bench.ledger, call)(*args)
    return caught.value


def test_a_refusal_names_the_account_the_dimension_and_the_numbers(bench: Bench) -> None:
    bench.ledger.reserve("k1", "c/b", Amounts(usd=70))
    error = refusal(bench, "k2", "c/a", Amounts(usd=40))
    assert error.reason == "over_budget"
    expected = {"account": "c", "dimension": "usd", "cap": 100, "spent": 0, "reserved": 70, "left": 30, "asked": 40}
    assert error.detail == expected
    assert refusal(bench, "k2", "c/a", Amounts(usd=61)).detail["account"] == "c/a"
    assert bench.ledger.reservation("k2") is None


def test_settling_charges_the_actual_and_frees_the_rest_on_every_ancestor(bench: Bench) -> None:
    bench.ledger.reserve("k", "c/a", Amounts(usd=50, gpu_ms=50))
    assert bench.ledger.settle("k", Amounts(usd=20, gpu_ms=5)) == Amounts(usd=20, gpu_ms=5)
    for account in ("c", "c/a"):
        balance = bench.ledger.balance(account)
        assert (balance.spent.usd, balance.reserved.usd) == (20, 0)
    assert bench.ledger.balance("c/b").spent.usd == 0
    assert bench.ledger.balance("c/a").left == Caps(usd=40, gpu_ms=45)
    assert bench.ledger.totals() == Amounts(usd=20, gpu_ms=5)


def test_an_overrun_charges_what_was_reserved_and_is_journaled(bench: Bench) -> None:
    bench.ledger.reserve("k", "c/a", Amounts(usd=10, gpu_ms=9))
    assert bench.ledger.settle("k", Amounts(usd=11, gpu_ms=3)) == Amounts(usd=10, gpu_ms=3)
    (event,) = bench.journal.events(kind="overrun")
    assert event.payload["actual"]["usd"] == 11
    assert event.payload["reserved"]["usd"] == 10


def test_what_is_left_is_charged_at_most_and_once(bench: Bench) -> None:
    bench.ledger.reserve("held", "c/b", Amounts(usd=30, gpu_ms=50))
    assert bench.ledger.spend_up_to("a", "c/a", Amounts(usd=40, wall_ms=9)) == Amounts(usd=40, wall_ms=9)
    assert bench.ledger.spend_up_to("b", "c/a", Amounts(usd=40, gpu_ms=1)) == Amounts(usd=20)
    assert bench.ledger.spend_up_to("b", "c/a", Amounts(usd=40, gpu_ms=1)) == Amounts(usd=20)
    assert refusal(bench, "b", "c/a", Amounts(usd=1), call="spend_up_to").reason == "key_reused"
    assert refusal(bench, "b", "c/a", Amounts(usd=40), call="spend_up_to").reason == "key_reused"
    assert bench.ledger.spend_up_to("d", "c/a", Amounts(usd=1)) == Amounts()
    assert bench.ledger.spend_up_to("e", "c/b", Amounts(usd=11)) == Amounts(usd=10)
    assert bench.ledger.balance("c").spent.usd == 70
    assert refusal(bench, "f", "nobody", ONE, call="spend_up_to").reason == "unknown_account"
    assert refusal(bench, "b", "c/b", ONE, call="spend_up_to").reason == "key_reused"


def test_exhausted_is_what_is_spent_for_good_here_or_above(bench: Bench) -> None:
    bench.ledger.reserve("held", "c/b", Amounts(usd=40, gpu_ms=50))
    assert bench.ledger.balance("c/a").left.gpu_ms == 0
    assert bench.ledger.balance("c/a").exhausted == ()
    bench.ledger.spend("s", "c/a", Amounts(usd=60))
    assert bench.ledger.balance("c/a").exhausted == ("usd",)
    assert bench.ledger.balance("c/b").exhausted == ()
    bench.ledger.settle("held", Amounts(usd=40, gpu_ms=50))
    assert bench.ledger.balance("c/b").exhausted == ("usd", "gpu_ms")


def test_every_call_is_idempotent_by_key(bench: Bench) -> None:
    for _ in range(3):
        bench.ledger.reserve("k", "c/a", ONE)
    for _ in range(3):
        assert bench.ledger.settle("k", Amounts(usd=1)) == ONE
        assert bench.ledger.spend("s", "c/a", Amounts(usd=5)) == Amounts(usd=5)
    bench.ledger.reserve("r", "c/a", ONE)
    assert bench.ledger.release("r") == bench.ledger.release("r") == ONE
    assert bench.ledger.reserve("r", "c/a", ONE).state == "released"
    bench.ledger.open("c/a", "c", Caps(usd=60))
    assert bench.ledger.balance("c").spent.usd == 6
    kinds = [e.kind for e in bench.journal.events()]
    assert (kinds.count("reserved"), kinds.count("settled"), kinds.count("released")) == (3, 2, 1)


def test_a_key_stands_for_one_thing_only(bench: Bench) -> None:
    bench.ledger.reserve("k", "c/a", ONE)
    assert refusal(bench, "k", "c/b", ONE).reason == "key_reused"
    assert refusal(bench, "k", "c/a", Amounts(usd=2)).reason == "key_reused"
    assert refusal(bench, "k", "c/a", ONE, call="spend").reason == "key_reused"
    assert refusal(bench, "c/a", "c", Caps(usd=61), call="open").reason == "account_differs"
    bench.ledger.settle("k", ONE)
    assert refusal(bench, "k", Amounts(), call="settle").reason == "key_reused"
    assert refusal(bench, "k", call="release").reason == "not_held"
    bench.ledger.spend("s", "c/a", Amounts(usd=5))
    assert bench.ledger.spend("s", "c/a", Amounts(usd=5)) == Amounts(usd=5)
    for other in (Amounts(usd=4), Amounts(usd=6), Amounts(usd=5, answers=1), Amounts()):
        assert refusal(bench, "s", "c/a", other, call="spend").reason == "key_reused"
    assert refusal(bench, "s", "c/b", Amounts(usd=5), call="spend").reason == "key_reused"
    assert refusal(bench, "s", "c/a", Amounts(usd=4), call="spend_up_to").reason == "key_reused"
    bench.ledger.reserve("r", "c/a", ONE)
    bench.ledger.release("r")
    assert refusal(bench, "r", ONE, call="settle").reason == "not_held"


def test_what_a_dead_holder_held_is_released_exactly_once(bench: Bench) -> None:
    for n in range(3):
        bench.ledger.reserve(f"k{n}", "c/a", Amounts(usd=10), holder="gateway")
    bench.ledger.reserve("other", "c/a", Amounts(usd=10), holder="somebody")
    bench.ledger.settle("k0", Amounts(usd=4))
    assert bench.ledger.release_holder("gateway") == ["k1", "k2"]
    assert bench.ledger.release_holder("gateway") == []
    balance = bench.ledger.balance("c")
    assert (balance.spent.usd, balance.reserved.usd) == (4, 10)
    assert refusal(bench, "", call="release_holder").reason == "malformed"


@pytest.mark.parametrize(
    ("call", "args", "reason"),
    [
        ("reserve", ("k", "c/none", ONE), "unknown_account"),
        ("reserve", ("k", "c/a", Amounts(usd=-1)), "malformed"),
        ("reserve", ("k", "c/a", Amounts(usd=MAX_AMOUNT + 1)), "malformed"),
        ("reserve", ("", "c/a", ONE), "malformed"),
        ("reserve", ("k", "c/a", ONE, "x" * 401), "malformed"),
        ("settle", ("none", ONE), "unknown_reservation"),
        ("release", ("none",), "unknown_reservation"),
        ("open", ("d/x", "d", Caps()), "unknown_account"),
        ("open", ("c/../x", "c", Caps()), "malformed"),
        ("open", ("", None, Caps()), "malformed"),
        ("open", ("d", None, Caps(usd=10**18 + 1)), "malformed"),
        ("balance", ("none",), "unknown_account"),
    ],
)
def test_bad_calls_are_refused_and_change_nothing(
    bench: Bench, call: str, args: tuple[object, ...], reason: str
) -> None:
    before = (bench.balances(), bench.journal.head())
    assert refusal(bench, *args, call=call).reason == reason
    assert (bench.balances(), bench.journal.head()) == before


def test_an_account_without_caps_cannot_overflow(bench: Bench) -> None:
    bench.ledger.open("free", None, Caps())
    for n in range(1000):
        bench.ledger.spend(f"k{n}", "free", Amounts(usd=MAX_AMOUNT))
    assert refusal(bench, "last", "free", ONE).reason == "over_budget"


def test_the_database_itself_refuses_a_balance_above_its_cap(bench: Bench) -> None:
    with pytest.raises(Exception, match="CHECK constraint"), bench.store.transaction() as db:
        db.execute("UPDATE balances SET spent = 101 WHERE account = 'c' AND dimension = 'usd'")


def test_threads_that_race_for_a_budget_never_pass_its_cap(bench: Bench) -> None:
    granted: list[str] = []

    def grab(worker: int) -> None:
        for n in range(30):
            try:
                bench.ledger.reserve(f"{worker}/{n}", "c/a", ONE)
            except RefusedError:
                continue
            granted.append(f"{worker}/{n}")
            if n % 3 == 0:
                bench.ledger.release(f"{worker}/{n}")
                granted.remove(f"{worker}/{n}")

    threads = [threading.Thread(target=grab, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 60
    assert bench.ledger.balance("c/a").reserved.usd == 60


def test_a_crash_at_any_statement_leaves_all_or_nothing(bench: Bench, tmp_path: Path) -> None:
    """Images before every statement of each call: each opens clean, and the retried calls end in the same state."""

    def work(ledger: Ledger) -> None:
        ledger.open("c/a/x", "c/a", Caps(answers=3))
        ledger.reserve("k1", "c/a/x", Amounts(usd=30, answers=1), holder="h")
        ledger.reserve("k2", "c/a/x", Amounts(usd=20, answers=1), holder="h")
        ledger.settle("k1", Amounts(usd=40))
        ledger.spend("s", "c/b", Amounts(usd=7))
        ledger.release_holder("h")

    with scratch() as directory:
        with Camera(bench.store, directory) as camera:
            work(bench.ledger)
        wanted = bench.balances()
        assert len(camera.images) > 6
        for path in camera.images:
            again = Bench(path)
            assert audit(open_readonly(path)) == []
            work(again.ledger)
            assert again.balances() == wanted
            assert audit(open_readonly(path)) == []
            again.close()


def test_the_audit_finds_a_balance_a_reservation_or_an_event_that_was_changed(bench: Bench) -> None:
    bench.ledger.reserve("k", "c/a", Amounts(usd=10))
    bench.ledger.settle("k", Amounts(usd=9))
    edits = {
        "UPDATE balances SET spent = 8 WHERE account = 'c/a' AND dimension = 'usd'": "balance of c/a.usd",
        "UPDATE balances SET cap = 1000 WHERE account = 'c' AND dimension = 'usd'": "balance of c.usd",
        "UPDATE reservations SET charged_usd = 1": "reservation k",
        "DELETE FROM reservations": "reservation k",
        "UPDATE journal SET at_us = 1 WHERE seq = 4": "the journal is broken",
    }
    with scratch() as directory:
        for n, (edit, named) in enumerate(edits.items()):
            store = Store(image(bench.store.path, directory / str(n)))
            with store.transaction() as db:
                db.execute(edit)
            (fault, *_) = audit(open_readonly(store.path))
            assert named in fault.text
            store.close()


AMOUNTS = st.builds(Amounts, st.integers(0, 12), st.integers(0, 12), st.just(0), st.integers(0, 3))
CAPS = st.builds(
    Caps, st.none() | st.integers(0, 60), st.none() | st.integers(0, 60), st.none(), st.none() | st.integers(0, 12)
)
KEYS = st.sampled_from([f"key-{n}" for n in range(12)])


class Killed(BaseException):
    """A crash in the middle of a call."""


class LedgerMachine(RuleBasedStateMachine):
    """Random calls with repeated keys and crashes, against a model that knows only reservations and caps."""

    accounts = Bundle("accounts")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.directory = self.stack.enter_context(scratch())
        self.crashes = 0
        self.bench = Bench(self.directory / "0" / "s.db")
        self.parents: dict[str, str | None] = {}
        self.caps: dict[str, Caps] = {}
        self.holds: dict[str, tuple[str, Amounts, str, Amounts]] = {}
        self.asked: dict[str, Amounts] = {}  # by spend_up_to

    def teardown(self) -> None:
        assert audit(open_readonly(self.bench.store.path)) == []
        self.bench.close()
        self.stack.close()

    @initialize(target=accounts, caps=CAPS)
    def root(self, caps: Caps) -> str:
        return self._open("c", None, caps)

    @rule(target=accounts, parent=accounts, caps=CAPS)
    def open(self, parent: str, caps: Caps) -> str:
        return self._open(f"{parent}/n{len(self.parents)}" if len(parent) < 60 else "c", parent, caps)

    def _open(self, name: str, parent: str | None, caps: Caps) -> str:
        if name not in self.parents:
            self.parents[name], self.caps[name] = parent, caps
            self.bench.ledger.open(name, parent, caps)
        self.bench.ledger.open(name, self.parents[name], self.caps[name])
        return name

    def _chain(self, account: str) -> list[str]:
        parent = self.parents[account]
        return [account, *(self._chain(parent) if parent is not None else [])]

    def _used(self, account: str) -> tuple[Amounts, Amounts]:
        """Spent and reserved of an account, computed from its own and its descendants' reservations."""
        spent, reserved = Amounts(), Amounts()
        for owner, amounts, state, charged in self.holds.values():
            if account in self._chain(owner):
                spent += charged
                reserved += amounts if state == "held" else Amounts()
        return spent, reserved

    def _fits(self, account: str, amounts: Amounts) -> bool:
        for name in self._chain(account):
            spent, reserved = self._used(name)
            for d in DIMENSIONS:
                cap, asked = getattr(self.caps[name], d), getattr(amounts, d)
                if cap is not None and asked and getattr(spent + reserved, d) + asked > cap:
                    return False
        return True

    @rule(key=KEYS, account=accounts, amounts=AMOUNTS)
    def reserve(self, key: str, account: str, amounts: Amounts) -> None:
        known = self.holds.get(key)
        if known is not None and known[:2] == (account, amounts):
            assert self.bench.ledger.reserve(key, account, amounts).state == known[2]
        elif known is not None:
            assert refusal(self.bench, key, account, amounts).reason == "key_reused"
        elif self._fits(account, amounts):
            self.bench.ledger.reserve(key, account, amounts)
            self.holds[key] = (account, amounts, "held", Amounts())
        else:
            assert refusal(self.bench, key, account, amounts).reason == "over_budget"

    @rule(key=KEYS, actual=AMOUNTS)
    def settle(self, key: str, actual: Amounts) -> None:
        known = self.holds.get(key)
        if known is None or known[2] == "released":
            reason = refusal(self.bench, key, actual, call="settle").reason
            assert reason == ("unknown_reservation" if known is None else "not_held")
            return
        charged = actual.capped_by(known[1])
        if known[2] == "settled" and charged != known[3]:
            assert refusal(self.bench, key, actual, call="settle").reason == "key_reused"
            return
        assert self.bench.ledger.settle(key, actual) == charged
        self.holds[key] = (*known[:2], "settled", charged)

    @rule(key=KEYS, account=accounts, amounts=AMOUNTS)
    def spend_up_to(self, key: str, account: str, amounts: Amounts) -> None:
        known = self.holds.get(key)
        if known is not None and (known[0] != account or known[2] != "settled"):
            assert refusal(self.bench, key, account, amounts, call="spend_up_to").reason == "key_reused"
            return
        asked = self.asked.get(key)
        same = amounts == asked if asked is not None else known is None or known[1].capped_by(amounts) == known[1]
        if not same:
            assert refusal(self.bench, key, account, amounts, call="spend_up_to").reason == "key_reused"
            return
        self.asked[key] = amounts
        left = {d: value for d, value in self.bench.ledger.balance(account).left.to_dict().items() if value is not None}
        most = Amounts(**{d: min(value, left.get(d, value)) for d, value in amounts.to_dict().items()})
        charged = most if known is None else known[3]
        assert self.bench.ledger.spend_up_to(key, account, amounts) == charged
        self.holds.setdefault(key, (account, most, "settled", charged))

    @rule(key=KEYS)
    def release(self, key: str) -> None:
        known = self.holds.get(key)
        if known is None or known[2] == "settled":
            reason = refusal(self.bench, key, call="release").reason
            assert reason == ("unknown_reservation" if known is None else "not_held")
            return
        assert self.bench.ledger.release(key) == known[1]
        self.holds[key] = (*known[:2], "released", Amounts())

    @rule()
    def crash_between_calls(self) -> None:
        self._reopen()

    @rule(account=accounts, amounts=AMOUNTS, key=KEYS, appends=st.integers(0, 2))
    def crash_inside_a_call(self, account: str, amounts: Amounts, key: str, appends: int) -> None:
        """Die at the journal, after the balances were changed: nothing of the call may remain."""
        journal, left = self.bench.journal, [appends]
        append = journal.append

        def dying(kind: str, payload: dict[str, object]) -> object:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return append(kind, payload)

        journal.append = dying  # type: ignore[method-assign, assignment]
        try:
            self.bench.ledger.spend(key, account, amounts)
        except (Killed, RefusedError):
            pass
        else:
            self.holds.setdefault(key, (account, amounts, "settled", amounts))
        self._reopen()

    def _reopen(self) -> None:
        self.crashes += 1
        path = image(self.bench.store.path, self.directory / str(self.crashes))
        self.bench.close()
        self.bench = Bench(path)

    @invariant()
    def balances_are_those_of_the_model_and_under_their_caps(self) -> None:
        for name in self.parents:
            balance = self.bench.ledger.balance(name)
            spent, reserved = self._used(name)
            assert balance.spent == spent
            assert balance.reserved == reserved
            assert self.caps[name].exceeded_by(spent + reserved) is None

    @invariant()
    def a_parent_is_the_sum_of_its_children_and_its_own(self) -> None:
        for name in self.parents:
            children = [child for child, parent in self.parents.items() if parent == name]
            own = sum((h[3] for h in self.holds.values() if h[0] == name), Amounts())
            below = sum((self.bench.ledger.balance(c).spent for c in children), Amounts())
            assert self.bench.ledger.balance(name).spent == own + below


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
