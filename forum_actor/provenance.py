"""Who read what, and what was built on what: the forum's journal, read as a graph.

Built on: a push names its parent, or the code store found that it resembles a snapshot which its author had fetched or
pushed before. Read: a snapshot was fetched or compared, a post was opened or copied into a workspace. A person, an
audit or the evaluator asks; nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from cluster.journal import Event, Journal, read_events
from cluster.store import open_readonly


class Provenance:
    """The graph after some events; events of kinds that do not concern it are passed over."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._children: dict[str, set[str]] = {}
        self._authors: dict[str, str] = {}
        self._seen: dict[str, set[str]] = {}
        self._fetched: dict[str, dict[str, str]] = {}
        self._opened: dict[str, set[str]] = {}
        self._copied: dict[str, int] = {}
        self._posts: list[dict[str, Any]] = []
        self.take(events)

    @classmethod
    def read(cls, database: Path) -> Provenance:
        """That of a forum's database, which may be in use; of a run without a forum, an empty one."""
        if not database.exists():
            return cls(())
        with closing(open_readonly(database)) as db:
            return cls(read_events(db))

    def take(self, events: Iterable[Event]) -> None:
        """Go on with later events."""
        for event in events:
            self._take(event.kind, event.payload)

    def _take(self, kind: str, told: dict[str, Any]) -> None:
        if kind == "push":
            self._authors.setdefault(told["snapshot"], told["author"])
            self._seen.setdefault(told["author"], set()).add(told["snapshot"])
            if not told.get("known"):
                for parent in {told.get("parent"), told.get("resembles")} - {None, "", told["snapshot"]}:
                    self._children.setdefault(str(parent), set()).add(told["snapshot"])
        elif kind == "fetched":
            self._fetched.setdefault(told["snapshot"], {}).setdefault(told["reader"], told["how"])
            self._seen.setdefault(told["reader"], set()).add(told["snapshot"])
        elif kind == "opened":
            self._opened.setdefault(told["post"], set()).add(told["reader"])
        elif kind == "copied":
            self._copied[told["reader"]] = max(told["seq"], self._copied.get(told["reader"], 0))
        elif kind == "post":
            self._posts.append(told)

    def built_on(self, snapshot: str) -> list[str]:
        """Every snapshot that grew out of this one, however many steps later; sorted."""
        found: set[str] = set()
        frontier = {snapshot}
        while frontier:
            children = (self._children.get(parent, set()) for parent in frontier)
            frontier = set().union(*children) - found - {snapshot}
            found |= frontier
        return sorted(found)

    def seen_by(self, person: str) -> frozenset[str]:
        """Snapshots that somebody pushed, fetched or compared."""
        return frozenset(self._seen.get(person, ()))

    def author(self, snapshot: str) -> str:
        """Who pushed it first; empty when nobody did."""
        return self._authors.get(snapshot, "")

    def posts_about(self, snapshot: str) -> list[dict[str, Any]]:
        """The posts that a snapshot is attached to."""
        return [post for post in self._posts if post.get("snapshot") == snapshot]

    def readers(self, snapshot: str) -> dict[str, list[str]]:
        """Who saw a snapshot's code or a post about it, and how; its author left out."""
        found: dict[str, list[str]] = {}
        for reader, how in self._fetched.get(snapshot, {}).items():
            found.setdefault(reader, []).append(how)
        for post in self.posts_about(snapshot):
            for reader, how in self.post_readers(post).items():
                found.setdefault(reader, []).append(f"{how} post {post['id']}")
        return {reader: how for reader, how in sorted(found.items()) if reader != self.author(snapshot)}

    def post_readers(self, post: dict[str, Any]) -> dict[str, str]:
        """Who opened a post or has a copy of it in a workspace; its author left out."""
        copied = {reader: "has a copy of" for reader, seq in self._copied.items() if seq >= post["seq"]}
        opened = dict.fromkeys(self._opened.get(post["id"], ()), "opened")
        return {reader: how for reader, how in sorted({**copied, **opened}.items()) if reader != post["author"]}


class LiveProvenance:
    """The graph of a journal that is being written; each event is read once."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._graph, self._seq, self._hash = Provenance(()), 0, ""

    def graph(self) -> Provenance:
        """The graph as the journal stands now. Call it, and use it, inside a transaction of the journal's store: that
        keeps other threads out, and what the transaction has written so far is in it.
        """
        if self._seq and self._journal.hash_of(self._seq) != self._hash:  # a transaction was undone
            self._graph, self._seq = Provenance(()), 0
        fresh = self._journal.events(self._seq)
        self._graph.take(fresh)
        if fresh:
            self._seq, self._hash = fresh[-1].seq, fresh[-1].hash
        return self._graph
