"""Storage that takes nothing: real full, locked and missing stores; nothing half done, nothing acknowledged lost."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import storage
from cluster.clock import StopWatchClock
from cluster.journal import Journal, verify_chain
from cluster.storage import Ballast, Place, StorageError, StoreProbe, storage_fault
from cluster.store import Store, open_readonly


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "s.db")
    made.schema("CREATE TABLE t (n INTEGER PRIMARY KEY, body BLOB)")
    yield made
    made.close()


def fill(store: Store) -> Callable[[], None]:
    """Make the store as full as a disk would be, by SQLite's own limit; what makes room again."""
    pages = store.query("PRAGMA page_count")[0][0]
    store.query(f"PRAGMA max_page_count = {pages}")
    return lambda: [None for _ in store.query("PRAGMA max_page_count = 1000000")].clear()


def put(store: Store, n: int, size: int = 100_000) -> int:
    with store.transaction() as db:
        db.execute("INSERT INTO t VALUES (?, ?)", (n, bytes(size)))
    return n


def numbers(store: Store) -> list[int]:
    return [row["n"] for row in store.query("SELECT n FROM t ORDER BY n")]


def test_a_full_disk_undoes_the_whole_call_and_the_same_call_succeeds_when_there_is_room(store: Store) -> None:
    journal = Journal(store)

    def write(db: sqlite3.Connection) -> str:
        journal.append("kept", {"body": bytes(200_000)})
        db.execute("INSERT INTO t VALUES (7, NULL)")
        return "answer"

    put(store, 1)
    make_room = fill(store)
    for _ in range(3):
        with pytest.raises(StorageError, match="full"):
            store.once("key", write)
        assert numbers(store) == [1]
        assert journal.head()[0] == 0
    make_room()
    assert store.once("key", write) == "answer"
    assert store.once("key", write) == "answer"
    assert numbers(store) == [1, 7]
    assert verify_chain(open_readonly(store.path)).events == 1


def attempt(store: Store, *statements: tuple[str, int]) -> str:
    """Carry out inserts in a transaction; how it failed, which the caller swallows."""
    try:
        with store.transaction() as db:
            for sql, size in statements:
                db.execute(sql, (bytes(size),) if "?" in sql else ())
    except (StorageError, sqlite3.OperationalError) as error:
        return str(error)
    return ""


def test_what_goes_on_after_a_fault_in_the_middle_is_not_committed_in_part(store: Store) -> None:
    """Whether SQLite undid a statement or everything: a caller who swallows the inner fault leaves nothing behind."""
    make_room = fill(store)

    def whole() -> None:
        with store.transaction() as db:
            db.execute("INSERT INTO t VALUES (1, NULL)")
            assert "full" in attempt(store, ("INSERT INTO t VALUES (2, ?)", 500_000))
            attempt(store, ("INSERT INTO t VALUES (3, NULL)", 0))
            db.execute("INSERT INTO t VALUES (4, ?)", (bytes(500_000),))

    with pytest.raises(StorageError):
        whole()
    make_room()
    assert numbers(store) == []
    assert put(store, 5) == 5
    assert numbers(store) == [5]


def test_a_rollback_by_sqlite_itself_dooms_the_outer_transaction(store: Store) -> None:
    def whole() -> None:
        with store.transaction() as db:
            db.execute("INSERT INTO t VALUES (1, NULL)")
            # as SQLite does by itself on some full disks and errors of the device
            assert attempt(store, ("ROLLBACK", 0), ("no such statement", 0))
            assert "rolled back" in attempt(store, ("INSERT INTO t VALUES (2, NULL)", 0))
            db.execute("INSERT INTO t VALUES (3, NULL)")

    with pytest.raises(StorageError, match="rolled back"):
        whole()
    assert numbers(store) == []
    assert put(store, 4) == 4


def test_a_store_that_another_process_locks_waits_a_second_and_goes_on_afterwards(store: Store) -> None:
    program = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute('BEGIN IMMEDIATE');"
        "print('held', flush=True); sys.stdin.read()"
    )
    held = subprocess.Popen(
        ["python3", "-c", program, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    with pytest.raises(StorageError, match="lock"):
        put(store, 1)
    assert numbers(store) == []
    held.communicate()
    assert put(store, 1) == 1


@pytest.mark.parametrize("how", ["unlinked", "moved", "replaced"])
def test_a_store_whose_file_is_gone_takes_nothing_more(store: Store, tmp_path: Path, how: str) -> None:
    """SQLite would go on writing to the file that nobody finds again."""
    put(store, 1)
    away = tmp_path / "away.db"
    if how == "unlinked":
        store.path.unlink()
    else:
        store.path.rename(away)
    if how == "replaced":
        store.path.write_bytes(b"")
    with pytest.raises(StorageError, match="gone"):
        put(store, 2)
    if how == "moved":
        away.rename(store.path)
        put(store, 2)
        assert numbers(store) == [1, 2]


def test_faults_are_known_by_their_kind_and_others_are_not_taken_for_them() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        assert storage_fault(OSError(number, "x", "/a/file")) is not None
    assert storage_fault(OSError(errno.EACCES, "x")) is None
    assert storage_fault(FileNotFoundError(errno.ENOENT, "x")) is None
    assert storage_fault(ValueError("No space left on device")) is None
    assert storage_fault(sqlite3.IntegrityError("x")) is None
    assert storage_fault(None) is None
    assert storage_fault(StorageError("why")) == "why"


def test_a_place_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    assert Place("cache", tmp_path).fault() is None
    free = os.statvfs(tmp_path)
    more = free.f_bavail * free.f_frsize + (1 << 40)
    assert "are needed" in (Place("cache", tmp_path, more).fault() or "")
    assert "is gone" in (Place("cache", tmp_path / "no").fault() or "")
    file = tmp_path / "file"
    file.touch()
    assert "is gone" in (Place("cache", file).fault() or "")
    assert list(tmp_path.iterdir()) == [file]


def test_a_probe_tells_a_lock_that_lasts_from_a_writer_at_work(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LOCKED_S", 0.2)
    probe, begun, end = StoreProbe(), threading.Event(), threading.Event()
    assert probe.faults({"forum": store.path}) == []

    def work() -> None:
        with store.transaction():
            begun.set()
            end.wait(30)

    writer = threading.Thread(target=work)
    writer.start()
    begun.wait(30)
    assert probe.faults({"forum": store.path}) == []
    time.sleep(0.3)
    assert "lock" in probe.faults({"forum": store.path})[0]
    end.set()
    writer.join()
    assert probe.faults({"forum": store.path}) == []
    assert "gone" in probe.faults({"forum": tmp_path / "no.db"})[0]
    put(store, 1)  # looking has cost the store nothing


def test_ballast_is_room_that_can_be_given_up(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / ".ballast", 1 << 20)
    ballast.take()
    ballast.take()
    assert (tmp_path / ".ballast").stat().st_blocks * 512 >= 1 << 20
    ballast.give()
    ballast.give()
    assert list(tmp_path.iterdir()) == []
    nowhere = Ballast(tmp_path / "no" / ".ballast", 1 << 20)
    nowhere.take()
    nowhere.give()


def test_a_stopped_clock_leaves_out_what_passes() -> None:
    clock = StopWatchClock()
    clock.stop()
    stood = clock()
    time.sleep(0.05)
    clock.stop()
    assert clock() == stood
    clock.go()
    clock.go()
    assert clock() - stood < 0.04
    time.sleep(0.02)
    assert clock() - stood >= 0.02
