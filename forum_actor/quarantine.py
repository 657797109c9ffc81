"""What is kept from readers: posts that `watch` found reasons against, and all that was made from them.

A post that is held stays in the journal, with its reasons, for people. No researcher gets it any more: not as news, not
by search, not by id, and its copies are taken out of workspaces. Held with it are the replies to it, and the snapshot
that its author attached with everything that was built on that one; a snapshot of somebody else is not, so that nobody
can have a rival's code held by naming it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.clock import now_us
from cluster.journal import Journal
from cluster.store import Store
from forum_actor.posts import Post
from forum_actor.provenance import LiveProvenance
from forum_actor.watch import Alarm, alarms

_DDL = """
CREATE TABLE IF NOT EXISTS held_posts (seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS held_snapshots (snapshot TEXT PRIMARY KEY, at_us INTEGER NOT NULL);
"""


class Quarantine:
    """What is held in one forum; its state is in the forum's store."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store, self._journal = store, journal
        self._provenance = LiveProvenance(journal)
        store.schema(_DDL)

    def posts(self) -> set[int]:
        """Numbers of posts that are held."""
        return {int(row["seq"]) for row in self._store.query("SELECT seq FROM held_posts")}

    def has_snapshot(self, snapshot: str) -> bool:
        """Whether a snapshot is held."""
        return bool(self._store.query("SELECT 1 FROM held_snapshots WHERE snapshot = ?", (snapshot,)))

    def author(self, snapshot: str) -> str:
        """Who pushed a snapshot first; empty when nobody did. Call it inside a transaction."""
        return self._provenance.graph().author(snapshot)

    def examine(self, post: Post, earlier: Sequence[Post]) -> list[str]:
        """Hold `post`, and earlier ones that it repeats, if there is reason to. The reasons. Call it inside a
        transaction.
        """
        found = alarms(post, earlier)
        if not found:
            return []
        by_id = {other.id: other for other in earlier}
        self._hold(post, found, earlier)
        held = self.posts()
        for alarm in found:
            other = by_id.get(alarm.other)
            if other is not None and "commands" in alarm.reason and other.seq not in held:
                self._hold(other, [Alarm("its commands are repeated by another author", post.id)], earlier)
        return [alarm.reason for alarm in found]

    def _hold(self, post: Post, found: Sequence[Alarm], earlier: Sequence[Post]) -> None:
        graph = self._provenance.graph()
        replies = _replies(post, earlier)
        own = [post.snapshot] if post.snapshot and graph.author(post.snapshot) == post.author else []
        snapshots = own + [child for snapshot in own for child in graph.built_on(snapshot)]
        with self._store.transaction() as db:
            now = now_us()
            rows = [(held.seq, now) for held in (post, *replies)]
            db.executemany("INSERT OR IGNORE INTO held_posts VALUES (?, ?)", rows)
            db.executemany("INSERT OR IGNORE INTO held_snapshots VALUES (?, ?)", [(s, now) for s in snapshots])
            event: dict[str, Any] = {
                "post": post.id,
                "author": post.author,
                "reasons": [{"reason": alarm.reason, "other": alarm.other} for alarm in found],
                "replies": [reply.id for reply in replies],
                "snapshots": snapshots,
                "read_by": graph.post_readers(post.to_dict()),
                "code_read_by": {snapshot: graph.readers(snapshot) for snapshot in snapshots},
            }
            self._journal.append("quarantined", event)


def _replies(post: Post, others: Sequence[Post]) -> list[Post]:
    """Replies to a post, replies to those, and so on."""
    found: dict[str, Post] = {}
    frontier = {post.id}
    while frontier:
        fresh = {other.id: other for other in others if other.reply_to in frontier and other.id not in found}
        found |= fresh
        frontier = set(fresh)
    return list(found.values())
