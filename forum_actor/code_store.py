"""The code store: snapshots of methods that researchers share, addressed by their content.

Promises: a snapshot never changes (its name is the hash of its tree); it is inert text that nothing here runs; every
push is written once per (author, key) together with its journal event, and so is who fetched what. The first push of a
content sets its lineage, so that lineage has no cycles and nobody can take the origin of a snapshot away from its
author. A push is compared with what its author had fetched or pushed before, whatever parent it names. Whatever the
text, a push and a diff take well below a second, and one researcher makes only so many pushes. Thread-safe.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from cluster.clock import now_us
from cluster.config import Forum as ForumConfig
from cluster.difference import unified_diff
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.journal import Journal
from cluster.objects import ObjectError, ObjectStore, safe_relative
from cluster.store import Store
from cluster.text import lines
from forum_actor.likeness import Sketch, likeness, most_alike, sketch
from forum_actor.posts import MINUTE_US, sanitise_line
from forum_actor.provenance import LiveProvenance
from forum_actor.quarantine import Quarantine

MAX_METHOD_BYTES = 64 << 10
MAX_TREE_BYTES = 1 << 20
MAX_FILES = 64
MAX_NOTE = 300
MAX_DIFF_CHARS = 200_000
ALIKE = 0.8
"""Likeness of lines, 0 to 1, from which a snapshot counts as built on another that its author had read."""
METHOD_FILE = "method.py"
_SHA = re.compile(r"[0-9a-f]{64}")
_DDL = """
CREATE TABLE IF NOT EXISTS pushes (
    seq INTEGER PRIMARY KEY,
    snapshot TEXT NOT NULL,
    author TEXT NOT NULL,
    parent TEXT,
    note TEXT NOT NULL,
    at_us INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS pushes_by_snapshot ON pushes (snapshot, seq);
CREATE INDEX IF NOT EXISTS pushes_by_author ON pushes (author, at_us);
CREATE TABLE IF NOT EXISTS sketches (
    snapshot TEXT PRIMARY KEY,
    lines INTEGER NOT NULL,
    hashes BLOB NOT NULL
);
"""
_BATCH = 200
"""Sketches that are read at once."""


class CodeStore:
    """Snapshots of a campaign: their bytes in the object store, their history in the forum's database."""

    def __init__(
        self,
        objects: ObjectStore,
        store: Store,
        journal: Journal,
        config: ForumConfig | None = None,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self._objects = objects
        self._store = store
        self._journal = journal
        self._config = config or ForumConfig()
        self._clock = clock
        store.schema(_DDL)
        self._quarantine = Quarantine(store, journal)
        self._provenance = LiveProvenance(journal)

    def push(self, key: str, author: str, files: dict[str, str], parent: str | None, note: str) -> str:
        """Keep `files` (relative path to text) and return the snapshot's sha256.

        Raises `RefusedError`: too_fast, push_limit, bad_snapshot (paths, bytes that are no text, nothing in it),
        too_large, unknown_snapshot, key_reused (the key stands for another push).
        """
        once_key = f"push/{author}/{key}"
        asked = {"files": files, "parent": parent, "note": note}
        if self._store.has_answered(once_key, asked):
            return self._store.once(once_key, lambda db: "")
        self._check_quota(author)
        blobs = _checked(files)
        if parent is not None:
            self._require(parent)
        snapshot = self._objects.put_tree(blobs)
        resembles = None if self.has(snapshot) else self._resembled(author, snapshot, blobs)
        clean = sanitise_line(str(note)[: 4 * MAX_NOTE])[:MAX_NOTE]
        size = sum(map(len, blobs.values()))
        return self._store.once(
            once_key, lambda db: self._record(db, snapshot, author, parent, resembles, clean, size), asked=asked
        )

    def _record(
        self,
        db: sqlite3.Connection,
        snapshot: str,
        author: str,
        parent: str | None,
        resembles: str | None,
        note: str,
        size: int,
    ) -> str:
        self._check_quota(author)
        known = db.execute("SELECT 1 FROM pushes WHERE snapshot = ?", (snapshot,)).fetchone() is not None
        parent = None if parent == snapshot else parent
        at_us = self._clock()
        db.execute(
            "INSERT INTO pushes (snapshot, author, parent, note, at_us) VALUES (?, ?, ?, ?, ?)",
            (snapshot, author, parent, note, at_us),
        )
        payload = {
            "snapshot": snapshot,
            "author": author,
            "parent": parent,
            "resembles": resembles,
            "note": note,
            "at_us": at_us,
            "files": [list(entry) for entry in self._objects.list_tree(snapshot)],
            "bytes": size,
            "known": known,
        }
        self._journal.append("push", payload)
        return snapshot

    def has(self, sha: str) -> bool:
        """Whether somebody pushed this snapshot."""
        return bool(self._store.query("SELECT 1 FROM pushes WHERE snapshot = ? LIMIT 1", (sha,)))

    def read_by(self, reader: str, *snapshots: str, how: str = "fetched") -> None:
        """Note, once, that `reader` saw the code of snapshots."""
        for sha in snapshots:
            event = {"reader": reader, "snapshot": sha, "how": how}
            self._store.once(f"fetched/{reader}/{sha}", partial(self._note_reading, event))

    def _note_reading(self, event: dict[str, Any], db: sqlite3.Connection) -> int:
        return self._journal.append("fetched", event).seq

    def _check_quota(self, author: str) -> None:
        limit, rate = self._config.pushes_per_researcher, self._config.pushes_per_minute
        sql = "SELECT count(*) AS n, coalesce(sum(at_us > ?), 0) AS lately FROM pushes WHERE author = ?"
        made = self._store.query(sql, (self._clock() - MINUTE_US, author))[0]
        if made["lately"] >= rate:
            raise RefusedError(
                Reason.TOO_FAST,
                f"{author} has pushed {made['lately']} times in a minute",
                {"limit": rate},
                LimitExceeded("pushes a minute", author, rate, made["lately"] + 1, "forum"),
            )
        if made["n"] >= limit:
            exceeded = LimitExceeded("pushes", author, limit, made["n"] + 1, "forum")
            raise RefusedError(Reason.PUSH_LIMIT, f"{author} has made its {limit} pushes", {"limit": limit}, exceeded)

    def _resembled(self, author: str, snapshot: str, blobs: dict[str, bytes]) -> str | None:
        """The snapshot that `author` fetched or pushed before and that this one is most like, if it is very like it."""
        own = _lines(blobs)
        self._keep(snapshot, own)
        with self._store.transaction():
            seen = self._provenance.graph().seen_by(author)
        alike = ((_likeness(own, other), sha) for sha, other in self._sketches(seen - {snapshot}))
        best = max(alike, default=(0.0, ""))
        return best[1] if best[0] >= ALIKE else None

    def _sketches(self, snapshots: Iterable[str]) -> Iterator[tuple[str, Sketch]]:
        """The sketches of snapshots, each with its name."""
        wanted = sorted(snapshots)
        for start in range(0, len(wanted), _BATCH):
            part = wanted[start : start + _BATCH]
            marks = ", ".join("?" * len(part))
            rows = self._store.query(f"SELECT * FROM sketches WHERE snapshot IN ({marks})", tuple(part))
            known = {str(row["snapshot"]): row for row in rows}
            for sha in part:
                row = known.get(sha)
                if row is None:  # pushed by a version that kept none
                    other = _lines(self._objects.get_tree(sha))
                    self._keep(sha, other)
                else:
                    other = Sketch(
                        row["lines"], frozenset(struct.unpack(f">{len(row['hashes']) // 8}Q", row["hashes"]))
                    )
                yield sha, other

    def _keep(self, snapshot: str, made: Sketch) -> None:
        row = (snapshot, made.count, struct.pack(f">{len(made.hashes)}Q", *made.hashes))
        with self._store.transaction(lazy=True) as db:
            db.execute("INSERT OR IGNORE INTO sketches VALUES (?, ?, ?)", row)

    def fetch(self, sha: str) -> dict[str, str]:
        """The files of a snapshot.

        Raises `RefusedError` unknown_snapshot, quarantined; `ObjectError` when the disk lost it.
        """
        self._require(sha)
        if self._quarantine.has_snapshot(sha):
            raise RefusedError(Reason.QUARANTINED, f"snapshot {sha[:12]} is held for people to look at")
        return {path: data.decode("utf-8") for path, data in self._objects.get_tree(sha).items()}

    def lineage(self, sha: str) -> list[dict[str, Any]]:
        """The snapshot and its ancestors, nearest first: snapshot, author, parent, note, at_us, also_pushed_by."""
        self._require(sha)
        line: list[dict[str, Any]] = []
        current: str | None = sha
        while current is not None:
            rows = self._store.query("SELECT * FROM pushes WHERE snapshot = ? ORDER BY seq", (current,))
            first = rows[0]
            others = sorted({row["author"] for row in rows} - {first["author"]})
            fields = {name: first[name] for name in ("snapshot", "author", "parent", "note", "at_us")}
            line.append({**fields, "also_pushed_by": others})
            current = first["parent"]
        return line

    def diff(self, sha_a: str, sha_b: str) -> str:
        """A unified diff from one snapshot to another, cut after 200,000 characters."""
        before, after = self.fetch(sha_a), self.fetch(sha_b)
        parts: list[str] = []
        for path in sorted(before.keys() | after.keys()):
            old, new = before.get(path, ""), after.get(path, "")
            if old == new:
                continue
            names = (f"a/{path}" if path in before else "/dev/null", f"b/{path}" if path in after else "/dev/null")
            parts.extend(unified_diff(old, new, *names))
        text = "\n".join(parts)
        return text if len(text) <= MAX_DIFF_CHARS else text[:MAX_DIFF_CHARS] + "\n[diff cut]"

    def _require(self, sha: str) -> None:
        if not isinstance(sha, str) or not _SHA.fullmatch(sha) or not self.has(sha):
            raise RefusedError(Reason.UNKNOWN_SNAPSHOT, f"the code store has no snapshot {str(sha)[:80]!r}")


def _lines(blobs: dict[str, bytes]) -> Sketch:
    """The lines of a snapshot that say something: no layout, no comments."""
    text = "\n".join(data.decode("utf-8", "replace") for _, data in sorted(blobs.items()))
    return sketch(line.split("#", 1)[0].strip() for line in lines(text))


def _likeness(one: Sketch, other: Sketch) -> float:
    """The share of lines in common, 0 to 1; 0 when their numbers alone say that it is below `ALIKE`."""
    return 0.0 if most_alike(one, other) < ALIKE else likeness(one, other)


def _checked(files: dict[str, str]) -> dict[str, bytes]:
    if not isinstance(files, dict) or not files:
        raise RefusedError(Reason.BAD_SNAPSHOT, "a snapshot needs at least one file")
    if len(files) > MAX_FILES:
        detail = {"limit": MAX_FILES, "files": len(files)}
        raise RefusedError(Reason.TOO_LARGE, f"{len(files)} files, at most {MAX_FILES} are allowed", detail)
    blobs = {_path(path): _blob(path, text) for path, text in files.items()}
    _limit(METHOD_FILE, len(blobs.get(METHOD_FILE, b"")), MAX_METHOD_BYTES)
    _limit("the snapshot", sum(map(len, blobs.values())), MAX_TREE_BYTES)
    names = set(blobs)
    for path in names:
        nested = next((other for other in names if other.startswith(path + "/")), None)
        if nested is not None:
            raise RefusedError(Reason.BAD_SNAPSHOT, f"{path!r} is a file and the folder of {nested!r}")
    return blobs


def _path(path: str) -> str:
    try:
        return str(safe_relative(path))
    except (ObjectError, TypeError) as error:
        raise RefusedError(Reason.BAD_SNAPSHOT, str(error)) from error


def _blob(path: str, text: str) -> bytes:
    if not isinstance(text, str) or "\0" in text:
        raise RefusedError(Reason.BAD_SNAPSHOT, f"{path!r} is not text")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedError(Reason.BAD_SNAPSHOT, f"{path!r} is not valid Unicode text") from error


def _limit(what: str, size: int, limit: int) -> None:
    if size > limit:
        detail = {"limit": limit, "bytes": size}
        exceeded = LimitExceeded("bytes", what, limit, size, "forum")
        raise RefusedError(Reason.TOO_LARGE, f"{what} has {size} bytes, at most {limit} are allowed", detail, exceeded)
