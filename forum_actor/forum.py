"""The forum: posts, replies, claims on ideas, search, news.

Promises:
- A post is written once per (author, key), in one transaction with its journal event; it is never changed or deleted.
- A number is shown as measured only when the evaluator gave it for a record id; all other text is an unverified claim.
- A post says whose record each is that it names, in a field or in its words, by the evaluator's word; nobody reports
  another's record, or one that is not there, as a result.
- At any time at most one author holds an idea; a claim ends by itself.
- A search takes words, never an expression: no text of a user reaches the query language.
- A post that is held (see `quarantine`) reaches no reader, from the moment that it is found out.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from cluster.config import Forum as ForumConfig
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.journal import Journal
from cluster.steady import SteadyClock
from cluster.store import Store
from cluster.wire import pack, unpack
from forum_actor.posts import (
    MAX_BODY,
    MEASURED,
    MINUTE_US,
    NOBODY,
    OWN,
    UNVERIFIED,
    Draft,
    Post,
    attributed,
    idea_key,
    make_draft,
    named_records,
    sanitise_line,
)
from forum_actor.quarantine import Quarantine
from forum_actor.render import figures

RecordLookup = Callable[[list[str]], Awaitable[list[dict[str, Any]]]]
MAX_PAGE = 100
COMPARED = 400
"""Latest posts that a new one is compared with."""
_MARK_BYTES = 6
_MAX_WORDS = 32
_FREE = "seq NOT IN (SELECT seq FROM held_posts)"
_AUTHOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DDL = """
CREATE TABLE IF NOT EXISTS posts (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    author TEXT NOT NULL,
    kind TEXT NOT NULL,
    idea_key TEXT NOT NULL,
    expires_us INTEGER,
    at_us INTEGER NOT NULL,
    post BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS posts_by_author ON posts (author, at_us);
CREATE INDEX IF NOT EXISTS posts_by_idea ON posts (idea_key) WHERE idea_key != '';
CREATE VIRTUAL TABLE IF NOT EXISTS posts_text USING fts5(title, body, author, kind, tokenize='unicode61');
"""


class Forum:
    """The posts of one campaign. `record_lookup` asks the evaluator, `has_snapshot` the code store."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        config: ForumConfig,
        record_lookup: RecordLookup,
        has_snapshot: Callable[[str], bool] = lambda sha: False,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """`clock` dates posts, limits their rate and ends claims; by default a steady one, kept in the store."""
        self._store = store
        self._journal = journal
        self._config = config
        self._lookup = record_lookup
        self._has_snapshot = has_snapshot
        store.schema(_DDL)
        self._clock = clock or SteadyClock(store, self._latest_us())
        self._quarantine = Quarantine(store, journal)
        self._posted = asyncio.Event()
        """Set, and replaced, with each new post."""

    def _latest_us(self) -> int:
        return int(self._store.query("SELECT coalesce(max(at_us), 0) AS at FROM posts")[0]["at"])

    async def post(self, key: str, author: str, draft: dict[str, Any]) -> dict[str, Any]:
        """Publish `draft` as `author` (set by the caller, never by the draft) and return the post.

        `held` in it are the reasons for which nobody else gets to see it. Raises `RefusedError`: forum_disabled,
        bad_author, bad_draft, too_long, unknown_record, not_yours, unknown_post, unknown_snapshot, post_limit,
        too_fast, claimed, key_reused (the key stands for another post).
        """
        if not self._config.enabled:
            raise RefusedError(Reason.FORUM_DISABLED, "this campaign runs without a forum")
        if not _AUTHOR.fullmatch(author):
            raise RefusedError(Reason.BAD_AUTHOR, f"{author[:80]!r} is no name of an author")
        once_key = f"post/{author}/{key}"
        clean = make_draft(draft)
        if self._store.has_answered(once_key, draft):
            return self._store.once(once_key, lambda db: {})
        self._check_quota(author, self._clock())
        records = await self._records(author, clean)
        post = self._store.once(once_key, lambda db: self._publish(db, author, clean, records), asked=draft)
        posted, self._posted = self._posted, asyncio.Event()
        posted.set()
        return post

    async def _records(self, author: str, draft: Draft) -> tuple[dict[str, Any], ...]:
        """The figures of the records that a draft names, and of those that its words mention, with whose they are."""
        mentioned = [name for name in named_records(draft) if name not in draft.record_ids]
        if not draft.record_ids and not mentioned:
            return ()
        asked = [*draft.record_ids, *mentioned]
        found = {str(s.get("record_id")): attributed(figures(s), author) for s in await self._lookup(asked)}
        missing = [name for name in draft.record_ids if name not in found]
        if missing:
            detail = {"missing": missing}
            raise RefusedError(Reason.UNKNOWN_RECORD, f"the evaluator has no record {', '.join(missing)}", detail)
        whose = {name: found[name]["whose"] for name in draft.record_ids}
        if draft.kind == "result" and OWN not in whose.values():
            told = ", ".join(f"{name} is of {owner}" for name, owner in whose.items())
            raise RefusedError(
                Reason.NOT_YOURS, f"a result reports a record of its author; {told}: quote it in an insight", whose
            )
        return tuple(found.get(name) or {"record_id": name, "whose": NOBODY} for name in asked)

    def _publish(
        self, db: sqlite3.Connection, author: str, draft: Draft, records: tuple[dict[str, Any], ...]
    ) -> dict[str, Any]:
        now = self._clock()
        self._check_references(draft)
        self._check_quota(author, now)
        held = idea_key(draft.idea) if draft.kind == "claim" else ""
        expires = None
        if held:
            self._check_free(held, author, now)
            expires = now + int(self._config.claim_minutes * 60e6)
        seq = 1 + int(db.execute("SELECT coalesce(max(seq), 0) FROM posts").fetchone()[0])
        post = Post(
            id=f"p-{seq:06d}",
            seq=seq,
            at_us=now,
            author=author,
            kind=draft.kind,
            title=draft.title,
            body=draft.body,
            record_ids=draft.record_ids,
            records=records,
            reply_to=draft.reply_to,
            snapshot=draft.snapshot,
            snapshot_author="" if draft.snapshot is None else self._quarantine.author(draft.snapshot),
            idea=draft.idea,
            expires_us=expires,
            mark=os.urandom(_MARK_BYTES).hex(),
            status=MEASURED if draft.record_ids else UNVERIFIED,
        )
        row = (seq, post.id, author, post.kind, held, expires, now, pack(post.to_dict()))
        db.execute("INSERT INTO posts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute(
            "INSERT INTO posts_text (rowid, title, body, author, kind) VALUES (?, ?, ?, ?, ?)",
            (seq, post.title, post.body, author, post.kind),
        )
        self._journal.append("post", post.to_dict())
        earlier = self._select("WHERE seq > ? AND seq < ? ORDER BY seq", (seq - COMPARED, seq))
        return {**post.to_dict(), "held": self._quarantine.examine(post, earlier)}

    def _check_references(self, draft: Draft) -> None:
        if draft.reply_to is not None and not self._store.query("SELECT 1 FROM posts WHERE id = ?", (draft.reply_to,)):
            raise RefusedError(Reason.UNKNOWN_POST, f"there is no post {draft.reply_to}")
        if draft.snapshot is not None and not self._has_snapshot(draft.snapshot):
            raise RefusedError(Reason.UNKNOWN_SNAPSHOT, f"the code store has no snapshot {draft.snapshot}")

    def _check_quota(self, author: str, now: int) -> None:
        limit = self._config.posts_per_researcher
        rate = self._config.posts_per_minute
        since = (author, now - MINUTE_US)
        lately = self._store.query("SELECT count(*) AS n FROM posts WHERE author = ? AND at_us > ?", since)[0]["n"]
        if lately >= rate:
            exceeded = LimitExceeded("posts a minute", author, rate, lately + 1, "forum")
            text = f"{author} has written {lately} posts within a minute"
            raise RefusedError(Reason.TOO_FAST, text, {"limit": rate}, exceeded)
        count = self._store.query("SELECT count(*) AS n FROM posts WHERE author = ?", (author,))[0]["n"]
        if count >= limit:
            exceeded = LimitExceeded("posts", author, limit, count + 1, "forum")
            raise RefusedError(Reason.POST_LIMIT, f"{author} has written its {limit} posts", {"limit": limit}, exceeded)

    def _check_free(self, held: str, author: str, now: int) -> None:
        rows = self._store.query(
            "SELECT author, id, expires_us FROM posts "
            f"WHERE idea_key = ? AND author != ? AND expires_us > ? AND {_FREE}",
            (held, author, now),
        )
        if rows:
            detail = {"holder": rows[0]["author"], "post": rows[0]["id"], "expires_us": rows[0]["expires_us"]}
            raise RefusedError(Reason.CLAIMED, f"{rows[0]['author']} works on this idea (post {rows[0]['id']})", detail)

    def read(self, post_id: str) -> dict[str, Any]:
        """One post. Raises `RefusedError` unknown_post, quarantined."""
        posts = self._select("WHERE id = ?", (str(post_id),))
        if not posts:
            raise RefusedError(Reason.UNKNOWN_POST, f"there is no post {sanitise_line(str(post_id)[:80])!r}")
        if posts[0].seq in self._quarantine.posts():
            raise RefusedError(Reason.QUARANTINED, f"post {posts[0].id} is held for people to look at")
        return posts[0].to_dict()

    def opened(self, reader: str, post_id: str) -> None:
        """Note, once, that `reader` opened a post."""
        self._note("opened", {"reader": reader, "post": post_id})

    def copied(self, reader: str, seq: int) -> None:
        """Note, once, that `reader` has copies of all posts up to `seq`."""
        self._note("copied", {"reader": reader, "seq": seq})

    def _note(self, kind: str, event: dict[str, Any]) -> None:
        key = "/".join([kind, *map(str, event.values())])
        self._store.once(key, lambda _: self._journal.append(kind, event).seq)

    def posts(self, after_seq: int = 0) -> list[Post]:
        """Posts with a greater number that readers may have, oldest first."""
        return self._select(f"WHERE seq > ? AND {_FREE} ORDER BY seq", (after_seq,))

    def held(self) -> list[Post]:
        """Posts that are held, oldest first."""
        return self._select(f"WHERE NOT ({_FREE}) ORDER BY seq", ())

    def unread(self, reader: str, after_seq: int = 0, limit: int = 20) -> list[dict[str, Any]]:
        """Posts of others with greater numbers than `after_seq`, oldest first, at most `limit` (at most 100)."""
        where = f"WHERE author != ? AND seq > ? AND {_FREE} ORDER BY seq LIMIT ?"
        return [post.to_dict() for post in self._select(where, (reader, after_seq, _page(limit)))]

    async def news(self, reader: str, after_seq: int, wait_s: float) -> int:
        """The number of the latest post of others that `reader` may have (0: none), as soon as it is not `after_seq`,
        and after `wait_s` seconds in any case.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while (latest := self._latest(reader)) == after_seq:
            left = deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._posted.wait(), left)
            except TimeoutError:
                break
        return latest

    def _latest(self, reader: str) -> int:
        query = f"SELECT coalesce(max(seq), 0) AS seq FROM posts WHERE author != ? AND {_FREE}"
        return int(self._store.query(query, (reader,))[0]["seq"])

    def search(self, query: str, limit: int = 20) -> list[dict[str, Any]]:
        """Posts that contain words beginning with the words of `query`, best match first. No input is an error."""
        words = re.findall(r"[^\W_]+", sanitise_line(str(query)[:MAX_BODY]))[:_MAX_WORDS]
        if not words:
            return []
        expression = " OR ".join(f'"{word}"*' for word in words)
        rows = self._store.query(
            f"SELECT p.post FROM posts_text t JOIN posts p ON p.seq = t.rowid WHERE posts_text MATCH ? AND p.{_FREE} "
            "ORDER BY bm25(posts_text, 3.0, 1.0, 1.0, 1.0), p.seq DESC LIMIT ?",
            (expression, _page(limit)),
        )
        return [_post(row).to_dict() for row in rows]

    def claims_active(self, now: int | None = None) -> list[dict[str, Any]]:
        """Claims that have not expired, the latest of each idea, oldest first."""
        moment = self._clock() if now is None else now
        latest = f"SELECT max(seq) FROM posts WHERE kind = 'claim' AND expires_us > ? AND {_FREE} GROUP BY idea_key"
        return [post.to_dict() for post in self._select(f"WHERE seq IN ({latest}) ORDER BY seq", (moment,))]

    def _select(self, where: str, params: tuple[Any, ...]) -> list[Post]:
        return [_post(row) for row in self._store.query(f"SELECT post FROM posts {where}", params)]


def _post(row: sqlite3.Row) -> Post:
    return Post.from_dict(unpack(row["post"]))


def _page(limit: int) -> int:
    return max(1, min(int(limit), MAX_PAGE))
