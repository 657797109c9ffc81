"""The journal: a chain that holds over restarts and names the exact event that was changed."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.journal import GENESIS, Event, Journal, read_events, verify_chain
from cluster.store import Store, open_readonly
from cluster.wire import WireError

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "s.db")
    yield made
    made.close()


def test_an_empty_journal_is_whole(store: Store) -> None:
    journal = Journal(store)
    assert journal.head() == (0, GENESIS.hex())
    report = verify_chain(open_readonly(store.path))
    assert (report.events, report.head, report.broken) == (0, GENESIS.hex(), None)


def test_events_are_chained_numbered_and_found_by_kind(store: Store) -> None:
    journal = Journal(store)
    first, second = journal.append("a", {"n": 1}), journal.append("b", {"n": [1.5, None, b"x"]})
    assert (first.seq, second.seq, second.prev) == (1, 2, first.hash)
    assert journal.events() == [first, second] == list(read_events(open_readonly(store.path)))
    assert journal.events(after_seq=1) == journal.events(kind="b") == [second]
    assert journal.head() == (2, second.hash)


def test_an_event_lives_and_dies_with_the_change_that_it_reports(store: Store) -> None:
    journal = Journal(store)
    with pytest.raises(RuntimeError), store.transaction():  # noqa: PT012
        journal.append("a", {})
        raise RuntimeError
    assert journal.events() == []
    with store.transaction():
        journal.append("a", {})
    assert len(journal.events()) == 1


@pytest.mark.parametrize("payload", [{1: 2}, {"x": object()}, {"x": 1 << 70}, {"x": "\ud800"}])
def test_what_could_not_be_read_back_is_never_written(store: Store, payload: dict[str, object]) -> None:
    journal = Journal(store)
    with pytest.raises(WireError):
        journal.append("a", payload)
    assert journal.events() == []


@pytest.mark.parametrize(
    ("edit", "seq"),
    [
        ("UPDATE journal SET kind = CAST(x'ff' AS TEXT) WHERE seq = 2", 2),
        ("UPDATE journal SET payload = 'text' WHERE seq = 2", 2),
        ("UPDATE journal SET at_us = 'soon' WHERE seq = 2", 2),
        ("UPDATE journal SET hash = x'00' WHERE seq = 2", 2),
        ("UPDATE journal SET prev = x'00' WHERE seq = 2", 2),
        ("DELETE FROM journal WHERE seq = 1", 2),
        ("UPDATE journal SET seq = 0 WHERE seq = 2", 0),
    ],
)
def test_a_forged_row_is_reported_and_never_an_error(store: Store, edit: str, seq: int) -> None:
    journal = Journal(store)
    for n in range(3):
        journal.append("a", {"n": n})
    with store.transaction() as db:
        db.execute(edit)
    report = verify_chain(open_readonly(store.path))
    assert report.broken is not None
    assert report.broken.seq == seq


PAYLOADS = st.dictionaries(
    st.text("abc", max_size=3),
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.text("xyzé", max_size=8) | st.binary(max_size=8) | st.booleans(),
    max_size=3,
)
KINDS = st.sampled_from(["reserved", "settled", "post", "phase"])


class JournalMachine(RuleBasedStateMachine):
    """Append and reopen; now and then forge one event of a copy: the report names exactly that event."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
        self.written: list[Event] = []

    @initialize()
    def open(self) -> None:
        self.store = Store(self.directory / "s.db")
        self.journal = Journal(self.store)

    def teardown(self) -> None:
        self.store.close()
        self.stack.close()

    @rule(kind=KINDS, payload=PAYLOADS)
    def append(self, kind: str, payload: dict[str, object]) -> None:
        self.written.append(self.journal.append(kind, payload))

    @rule(kind=KINDS, count=st.integers(1, 3))
    def append_and_fail(self, kind: str, count: int) -> None:
        with pytest.raises(KeyError), self.store.transaction():  # noqa: PT012
            for _ in range(count):
                self.journal.append(kind, {})
            raise KeyError

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.open()

    def _forged(self, edit: str, *params: object) -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:")
        copy.row_factory = sqlite3.Row
        source = open_readonly(self.store.path)
        source.backup(copy)
        source.close()
        copy.execute(edit, params)
        return copy

    @precondition(lambda self: self.written)
    @rule(data=st.data(), field=st.sampled_from(["at_us", "kind", "payload", "prev", "hash"]))
    def edit_one(self, data: st.DataObject, field: str) -> None:
        seq = data.draw(st.integers(1, len(self.written)))
        change = {"at_us": "at_us + 1", "kind": "kind || '!'"}.get(field, f"CAST({field} || x'00' AS BLOB)")
        broken = verify_chain(self._forged(f"UPDATE journal SET {field} = {change} WHERE seq = ?", seq)).broken
        assert broken is not None
        assert broken.seq == seq

    @precondition(lambda self: self.written)
    @rule(data=st.data())
    def remove_one(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(1, len(self.written)))
        report = verify_chain(self._forged("DELETE FROM journal WHERE seq = ?", seq))
        if seq == len(self.written):
            assert report.broken is None
            assert report.head != self.journal.head()[1]
        else:
            assert report.broken is not None
            assert report.broken.seq == seq + 1

    @precondition(lambda self: len(self.written) > 1)
    @rule(data=st.data())
    def swap_two(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(1, len(self.written) - 1))
        db = self._forged("UPDATE journal SET seq = -1 WHERE seq = ?", seq)
        db.execute("UPDATE journal SET seq = ? WHERE seq = ?", (seq, seq + 1))
        db.execute("UPDATE journal SET seq = ? WHERE seq = -1", (seq + 1,))
        broken = verify_chain(db).broken
        assert broken is not None
        assert broken.seq == seq

    @invariant()
    def the_chain_holds_all_that_was_written(self) -> None:
        assert self.journal.events() == self.written
        report = verify_chain(open_readonly(self.store.path))
        assert (report.events, report.broken) == (len(self.written), None)
        assert self.journal.head() == (report.events, report.head)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
