"""The store: once per key, all or nothing, one writer, nothing lost that was committed."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.store import Store, StoreBusyError, open_readonly
from cluster.wire import WireError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "deep" / "s.db")
    made.schema("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
    yield made
    made.close()


def numbers(store: Store) -> list[int]:
    return [row["n"] for row in store.query("SELECT n FROM t ORDER BY n")]


def put(store: Store, n: int) -> None:
    with store.transaction() as db:
        db.execute("INSERT INTO t VALUES (?)", (n,))


def test_a_repeated_key_gets_the_first_answer_and_runs_nothing(store: Store) -> None:
    calls: list[int] = []

    def work(db: sqlite3.Connection) -> dict[str, object]:
        calls.append(1)
        db.execute("INSERT INTO t VALUES (?)", (len(calls),))
        return {"n": len(calls), "tuple": [1, 2]}

    first = store.once("key", work)
    assert store.once("key", work) == first == {"n": 1, "tuple": [1, 2]}
    assert store.once("other", work) == {"n": 2, "tuple": [1, 2]}
    assert numbers(store) == [1, 2]


def test_the_first_answer_survives_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    assert store.once("key", lambda _: "first") == "first"
    store.close()
    store = Store(tmp_path / "s.db")
    assert store.once("key", lambda _: "second") == "first"
    store.close()


def test_a_call_that_fails_leaves_neither_change_nor_answer(store: Store) -> None:
    def fail(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO t VALUES (1)")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.once("key", fail)
    assert numbers(store) == []
    assert store.once("key", lambda _: 5) == 5


def test_an_answer_that_cannot_be_stored_undoes_its_work(store: Store) -> None:
    for answer in (object(), {1: 2}):
        with pytest.raises(WireError):
            store.once("key", lambda db, answer=answer: (db.execute("INSERT INTO t VALUES (1)"), answer)[1])  # type: ignore[misc]
    assert numbers(store) == []


def test_nested_transactions_commit_together(store: Store) -> None:
    with store.transaction():
        put(store, 1)
        store.once("k", lambda db: bool(db.execute("INSERT INTO t VALUES (2)")))
        with pytest.raises(sqlite3.OperationalError):
            open_readonly(store.path).execute("SELECT * FROM absent")
        assert open_readonly(store.path).execute("SELECT COUNT(*) FROM t").fetchone()[0] == 0
    assert numbers(store) == [1, 2]


def test_an_outer_failure_undoes_inner_transactions(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.transaction():  # noqa: PT012
        store.once("k", lambda db: bool(db.execute("INSERT INTO t VALUES (2)")))
        raise KeyboardInterrupt
    assert numbers(store) == []
    assert store.once("k", lambda _: "fresh") == "fresh"


def test_a_caught_inner_failure_undoes_the_inner_part_alone(store: Store) -> None:
    with store.transaction():
        put(store, 1)
        with pytest.raises(RuntimeError), store.transaction():  # noqa: PT012
            put(store, 2)
            with store.transaction():
                put(store, 3)
            raise RuntimeError
        put(store, 4)
    assert numbers(store) == [1, 4]


def test_a_failed_commit_leaves_the_store_usable(store: Store) -> None:
    store.schema("CREATE TABLE p (id INTEGER PRIMARY KEY REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), store.transaction() as db:
        db.execute("INSERT INTO p VALUES (99)")
    put(store, 1)
    assert numbers(store) == [1]
    assert store.query("SELECT * FROM p") == []


def test_a_lazy_commit_waits_for_no_disk_and_the_next_one_does(store: Store) -> None:
    def waits() -> bool:
        return bool(store.query("PRAGMA synchronous")[0]["synchronous"] == 2)

    for n, lazy in enumerate((False, True, False)):
        with store.transaction(lazy=lazy) as db:
            db.execute("INSERT INTO t VALUES (?)", (n,))
            assert waits() is not lazy
    assert numbers(store) == [0, 1, 2]


def test_what_must_wait_for_the_disk_is_refused_inside_a_lazy_transaction(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction(lazy=True):
        put(store, 1)
    put(store, 2)
    with store.transaction(), store.transaction(lazy=True) as db:
        db.execute("INSERT INTO t VALUES (3)")
    assert numbers(store) == [2, 3]


def test_schema_inside_a_transaction_is_refused(store: Store) -> None:
    with pytest.raises(RuntimeError, match="would commit"), store.transaction():  # noqa: PT012
        put(store, 1)
        store.schema("CREATE TABLE late (n)")
    assert numbers(store) == []


def test_threads_take_turns(store: Store) -> None:
    def count() -> None:
        for _ in range(20):
            with store.transaction() as db:
                (n,) = db.execute("SELECT COUNT(*) FROM t").fetchone()
                db.execute("INSERT INTO t VALUES (?)", (n,))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(store) == list(range(80))


def test_a_second_writer_is_refused_until_the_first_is_gone(store: Store) -> None:
    with pytest.raises(StoreBusyError, match="in use"):
        Store(store.path, lock_timeout=0.1)
    store.close()
    Store(store.path, lock_timeout=0.1).close()


def test_a_killed_writer_loses_its_lock_and_nothing_that_it_committed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    code = (
        "import os, sys; from pathlib import Path; from cluster.store import Store\n"
        "s = Store(Path(sys.argv[1])); s.schema('CREATE TABLE t (n INTEGER PRIMARY KEY)')\n"
        "with s.transaction() as db: db.execute('INSERT INTO t VALUES (1)')\n"
        "with s.transaction() as db:\n"
        "    db.execute('INSERT INTO t VALUES (2)'); os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False, timeout=60)
    assert done.returncode == -9
    store = Store(path, lock_timeout=0.1)
    assert numbers(store) == [1]
    store.close()


def test_a_reader_sees_committed_rows_and_cannot_write(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    reader = open_readonly(store.path)
    assert [row["n"] for row in reader.execute("SELECT n FROM t")] == [1]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO t VALUES (2)")
    with pytest.raises(FileNotFoundError):
        open_readonly(tmp_path / "absent.db")


def test_a_copy_of_the_files_opens_as_the_committed_state(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    with store.transaction() as db:
        db.execute("INSERT INTO t VALUES (2)")
        for name in ("s.db", "s.db-wal"):
            shutil.copyfile(store.path.parent / name, tmp_path / name)
    copy = Store(tmp_path / "s.db")
    assert numbers(copy) == [1]
    copy.close()
