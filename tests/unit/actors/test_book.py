"""The lease book: one state per request, no slot above its whole, slots remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.scheduler.admission import check_request, holder_of
from actors.scheduler.book import LEAST_SHARE_MS, Book, BookError, Entry, unused_result
from actors.scheduler.policy import Held, Usage
from cluster.errors import RefusedError
from cluster.money import Amounts
from cluster.store import Store
from gpu_pool.leases import Job, LeaseRequest, Step
from tests.unit.actors.scheduler_fakes import PRICE, a_request, a_slot_info, scratch


@pytest.fixture
def book() -> Iterator[Book]:
    with scratch() as directory:
        store = Store(directory / "s.db")
        yield Book(store)
        store.close()


def add(book: Book, key: str, **fields: object) -> Entry:
    request = a_request(key, **fields)  # type: ignore[arg-type]
    return book.add(request, check_request(request, PRICE), PRICE)


def end(book: Book, entry: Entry, gpu_ms: int = 0) -> Entry:
    return book.finish(entry.request_id, unused_result(entry, "cancelled", None), gpu_ms, 1)


def test_a_request_goes_from_queued_to_running_to_its_end(book: Book) -> None:
    entry = add(book, "k", gpus=0.25, seconds=2.5)
    assert (entry.state, entry.thousandths, entry.duration_ms, entry.reserved_gpu_ms) == ("queued", 250, 2500, 625)
    assert book.by_key("k") == entry == book.find("r000001")
    assert book.request(entry.request_id) == a_request("k", gpus=0.25, seconds=2.5)
    running = book.grant(entry.request_id, "s", 1, oldest=True)
    assert (running.state, running.slot, running.lease_id) == ("running", "s", "r000001-1")
    assert book.held() == {"s": [Held(250, running.ends_us)]}
    assert book.result(entry.request_id) is None
    ended = end(book, running)
    assert (ended.state, book.held(), ended.live) == ("cancelled", {}, False)
    assert book.result(entry.request_id) is not None


def test_an_ended_request_stays_ended(book: Book) -> None:
    entry = end(book, add(book, "k"))
    changes: tuple[Callable[[], Entry], ...] = (
        lambda: end(book, entry),
        lambda: book.grant(entry.request_id, "s", 1, oldest=True),
        lambda: book.requeue(entry.request_id),
    )
    for change in changes:
        with pytest.raises(BookError):
            change()


def test_a_slot_is_never_granted_above_its_whole_whatever_the_policy_says(book: Book) -> None:
    first, second, third = (add(book, f"k{n}", gpus=g) for n, g in enumerate((0.6, 0.4, 0.05)))
    book.grant(first.request_id, "s", 1, oldest=True)
    book.grant(second.request_id, "s", 1, oldest=True)
    with pytest.raises(BookError, match="holds 1000 thousandths"):
        book.grant(third.request_id, "s", 1, oldest=True)
    assert book.get(third.request_id).state == "queued"


def test_a_lost_lease_returns_to_its_old_place_as_a_new_lease(book: Book) -> None:
    first, _ = add(book, "k1"), add(book, "k2")
    book.grant(first.request_id, "s", 1, oldest=True)
    again = book.requeue(first.request_id)
    assert (again.lease_id, again.slot, again.granted_us) == ("r000001-2", None, None)
    assert [e.key for e in book.queued()] == ["k1", "k2"]


def test_usage_counts_what_is_used_and_what_is_held(book: Book) -> None:
    entries = [add(book, f"k{n}", gpus=0.5, seconds=60) for n in range(3)]
    add(book, "k9", account="campaign/researcher/01-a/gpu", gpus=0.5)
    granted = [
        book.grant(e.request_id, slot, 1, oldest=n == 0) for n, (e, slot) in enumerate(zip(entries, "sst", strict=True))
    ]
    end(book, granted[0], gpu_ms=7000)
    end(book, granted[1], gpu_ms=1)
    usage = book.usage()["campaign/researcher/01-a"]
    assert usage == Usage(7000 + LEAST_SHARE_MS + 30_000, granted[0].granted_us or 0)
    assert book.count_queued() == book.count_queued("campaign/researcher/01-a") == 1
    assert book.count_queued("campaign/baselines") == 0


def test_slots_are_remembered_renewed_and_retired(book: Book) -> None:
    assert book.put_slot(a_slot_info("s"), "c/slot-0")
    assert not book.put_slot(a_slot_info("s"), "c/slot-0")
    assert book.put_slot(a_slot_info("s", threads=8), "c/slot-0")
    assert book.retire_slot("s")
    assert not book.retire_slot("s")
    assert book.slots()["s"].retired
    assert book.put_slot(a_slot_info("s", threads=8), "c/slot-0")
    assert (book.slots()["s"].retired, book.slots()["s"].info.threads) == (False, 8)


@pytest.mark.parametrize(
    ("account", "holder"),
    [
        ("campaign/researcher/01-a", "campaign/researcher/01-a"),
        ("campaign/researcher/01-a/gpu", "campaign/researcher/01-a"),
        ("campaign/researcher/01-a/evaluations/x", "campaign/researcher/01-a"),
        ("campaign/baselines", "campaign/baselines"),
        ("campaign/seal/x", "campaign/seal"),
        ("campaign", "campaign"),
    ],
)
def test_accounts_below_a_researcher_share_its_turn(account: str, holder: str) -> None:
    assert holder_of(account) == holder


STEP = Step("a", "method", {}, {}, {}, 1.0)


@pytest.mark.parametrize(
    ("fields", "reason", "named"),
    [
        ({"gpus": 1.001}, "larger_than_any_slot", "larger than any slot"),
        ({"gpus": 4}, "larger_than_any_slot", "gpus: 4"),
        ({"gpus": 0.049}, "malformed", "gpus"),
        ({"gpus": -1}, "malformed", "gpus"),
        ({"gpus": float("nan")}, "malformed", "gpus"),
        ({"gpus": "1"}, "malformed", "gpus"),
        ({"gpus": True}, "malformed", "gpus"),
        ({"seconds": 0}, "malformed", "seconds"),
        ({"seconds": float("inf")}, "malformed", "seconds"),
        ({"seconds": 1e9}, "malformed", "seconds"),
        ({"kind": "holiday"}, "malformed", "kind: 'holiday'"),
        ({"key": ""}, "malformed", "key"),
        ({"account": 7}, "malformed", "account"),
        ({"label": "x" * 201}, "malformed", "label"),
        ({"memory_bytes": 0}, "malformed", "memory_bytes"),
        ({"memory_bytes": (4 << 30) + 1}, "larger_than_any_slot", "memory_bytes: 4294967297"),
        ({"job": Job(())}, "malformed", "job.steps"),
        ({"job": Job((STEP, STEP))}, "malformed", "distinct step names"),
        ({"job": Job((Step("a", "method", {}, {"x": object()}, {}, 1.0),))}, "malformed", "plain data"),
        ({"job": Job((Step("a", "method", {}, {"x": "y" * (2 << 20)}, {}, 1.0),))}, "malformed", "at most 1048576"),
    ],
)
def test_a_refused_request_names_the_field_the_value_and_what_was_expected(
    fields: dict[str, object], reason: str, named: str
) -> None:
    request = LeaseRequest(**{**{f: getattr(a_request("k"), f) for f in LeaseRequest.__dataclass_fields__}, **fields})
    with pytest.raises(RefusedError) as caught:
        check_request(request, PRICE, most_memory=4 << 30)
    assert caught.value.reason == reason
    assert named in caught.value.message


@pytest.mark.parametrize(("gpus", "thousandths"), [(0.05, 50), (1, 1000), (1.0, 1000), (1 / 3, 333), (0.1 + 0.2, 300)])
def test_fractions_become_integer_thousandths(gpus: float, thousandths: int) -> None:
    demand = check_request(a_request("k", gpus=gpus, seconds=3600), PRICE)
    assert demand.thousandths == thousandths
    assert demand.worst == Amounts(usd=2000 * thousandths, gpu_ms=3600 * thousandths)


def test_the_book_is_found_again_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    book = Book(store)
    entry = add(book, "k")
    book.put_slot(a_slot_info("s"), "actor")
    book.grant(entry.request_id, "s", 2, oldest=True)
    before = (book.running(), book.slots(), book.usage())
    store.close()
    store = Store(tmp_path / "s.db")
    again = Book(store)
    assert (again.running(), again.slots(), again.usage()) == before
    store.close()
