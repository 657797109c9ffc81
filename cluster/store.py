"""One SQLite database with one writer: the durable memory of an actor.

Promises:
- What `transaction` committed survives `kill -9` and power loss (WAL with `synchronous=FULL`); with `lazy=True` it
  survives `kill -9`, and power loss once a later transaction that is not lazy has written something.
- `once(key, fn)` runs `fn` at most once per key, in one transaction with its answer: a retried call gets the first
  answer, and a call that was cut short left nothing behind; the same key with another request is refused.
- A second `Store` on the same file is refused while the first lives (an exclusive lock that the kernel drops when its
  holder dies), so that a restarted actor never writes beside its predecessor.
- A transaction inside another one is undone alone when it fails, so that a caller who goes on after a refusal
  commits nothing of the refused part.
- A disk that is full, read-only or fails, a lock that another process keeps, a file that was taken away: the whole
  transaction is undone and `StorageError` raised, and the same call may be made again. What SQLite itself rolled back
  in the middle is never committed in part.
Thread-safe: transactions of several threads run one after another. In asyncio, never await inside a transaction.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluster.clock import now_us
from cluster.errors import AarError, Reason, RefusedError
from cluster.storage import StorageError, storage_fault
from cluster.wire import pack, unpack

T = TypeVar("T")
_ANSWER_LIMIT = 16 << 20
_ASKED = "#asked"
"""Ends the key under which the digest of a request stands."""
_BUSY_S = 1.0
"""How long a statement waits for a lock of another process: its actor answers nobody meanwhile."""
_DDL = "CREATE TABLE IF NOT EXISTS once (key TEXT PRIMARY KEY, answer BLOB NOT NULL, at_us INTEGER NOT NULL)"


class StoreBusyError(AarError):
    """Another process holds the store."""


class Store:
    """The single writer of the SQLite file at `path`."""

    def __init__(self, path: Path, lock_timeout: float = 20.0) -> None:
        """Open or create `path`, waiting up to `lock_timeout` seconds for a predecessor to die."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock_file = path.with_name(path.name + ".lock").open("w")
        self._take_lock(lock_timeout)
        self._mutex = threading.RLock()
        self._depth = 0
        self._lazy = False
        self._doomed = False
        """SQLite rolled the outermost transaction back while an inner one ran."""
        with self._faults_named():
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
        self._file = _identity(path)
        self.schema(_DDL)

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        """Turn SQLite's errors that tell of storage into `StorageError`."""
        try:
            yield
        except sqlite3.Error as error:
            fault = storage_fault(error)
            if fault is None:
                raise
            raise StorageError(f"the store {self.path.name}: {fault}") from error

    def _take_lock(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StoreBusyError(f"{self.path} is in use by another process") from error
                time.sleep(0.05)

    def schema(self, ddl: str) -> None:
        """Run idempotent DDL statements, outside of any transaction."""
        with self._mutex:
            if self._depth:
                raise RuntimeError("schema() inside a transaction would commit it")
            with self._faults_named():
                self._be_lazy(False)
                self._db.executescript(ddl)

    @contextmanager
    def transaction(self, *, lazy: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction; inside another one of the same thread it is a savepoint of that one.

        `lazy`: commit without waiting for the disk; for what may be done again when power fails.
        """
        with self._mutex:
            level = self._depth
            with self._faults_named():
                if level == 0:
                    self._check_place()
                    self._be_lazy(lazy)
                elif self._lazy and not lazy:
                    raise RuntimeError("a transaction that waits for the disk inside a lazy one")
                self._db.execute(f"SAVEPOINT level_{level}" if level else "BEGIN IMMEDIATE")
                self._depth += 1
                try:
                    yield self._db
                    self._check_whole()
                    self._db.execute(f"RELEASE level_{level}" if level else "COMMIT")
                except BaseException:
                    self._undo(level)
                    raise
                finally:
                    self._depth = level
                    self._doomed = self._doomed and level > 0

    def _be_lazy(self, lazy: bool) -> None:
        if lazy != self._lazy:
            self._db.execute(f"PRAGMA synchronous={'NORMAL' if lazy else 'FULL'}")
            self._lazy = lazy

    def _check_place(self) -> None:
        """The file must still be where a successor would look for it: SQLite goes on writing to one that is gone."""
        if _identity(self.path) != self._file:
            raise StorageError(f"the store {self.path.name}: it is gone from {self.path.parent}, or was replaced")

    def _check_whole(self) -> None:
        if self._doomed:
            raise StorageError(f"the store {self.path.name}: the transaction was rolled back")

    def _undo(self, level: int) -> None:
        if not self._db.in_transaction:  # SQLite itself rolled back all of it, as it does when the disk is full
            if level:  # what the caller still does in the outer transaction must not be committed by itself
                self._doomed = True
                self._db.execute("BEGIN")
            return
        if level and self._doomed:
            return
        if level:
            self._db.execute(f"ROLLBACK TO level_{level}")
            self._db.execute(f"RELEASE level_{level}")
        else:
            self._db.execute("ROLLBACK")

    def once(self, key: str, fn: Callable[[sqlite3.Connection], T], *, asked: Any = None) -> T:
        """The answer of `fn` for `key`, computed at most once. The answer must be plain msgpack-able data.

        `asked` is the request behind the key, as JSON would have it: the key again with another request raises
        `RefusedError` "key_reused", because the first answer would not be an answer to it.
        """
        with self.transaction() as db:
            if asked is not None:
                self._check_same_request(key, asked)
            row = db.execute("SELECT answer FROM once WHERE key = ?", (key,)).fetchone()
            if row is not None:
                answer: T = unpack(row["answer"], _ANSWER_LIMIT)
                return answer
            fresh = fn(db)
            packed = pack(fresh)
            db.execute("INSERT INTO once (key, answer, at_us) VALUES (?, ?, ?)", (key, packed, now_us()))
            stored: T = unpack(packed, _ANSWER_LIMIT)
            return stored

    def has_answered(self, key: str, asked: Any) -> bool:
        """Whether `once` has an answer under `key`. Raises `RefusedError` "key_reused": it is to another request."""
        with self.transaction() as db:
            known = db.execute("SELECT 1 FROM once WHERE key = ?", (key,)).fetchone() is not None
            if known:
                self._check_same_request(key, asked)
            return known

    def _check_same_request(self, key: str, asked: Any) -> None:
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
        # A key of a store from before requests were kept has an answer and no request: it takes the first one.
        if self.once(f"{key}{_ASKED}", lambda _: digest) != digest:
            raise RefusedError(Reason.KEY_REUSED, f"key {key!r} already stands for another request", {"key": key})

    def query(self, sql: str, params: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """All rows of a read."""
        with self._mutex, self._faults_named():
            return self._db.execute(sql, params).fetchall()

    def close(self) -> None:
        """Close the database and drop the lock."""
        with self._mutex:
            self._db.close()
            self._lock_file.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (once per transaction)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_readonly(path: Path) -> sqlite3.Connection:
    """A read-only connection to a store that another process may be writing. Raises `FileNotFoundError`."""
    if not path.exists():
        raise FileNotFoundError(f"no store at {path}")
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)  # a path may hold any character
    db.row_factory = sqlite3.Row
    return db
