"""The way to a campaign's forum and code store. Posts are plain data as `Post.to_dict` gives it."""

from __future__ import annotations

from typing import Any

from cluster.names import actor_name
from cluster.remote import Caller, Remote


class ForumClient:
    """The forum's methods, typed. Every call that changes something carries an idempotency key."""

    def __init__(self, actor: Caller) -> None:
        self._actor = actor

    @classmethod
    def of(cls, campaign: str) -> ForumClient:
        """The client of a campaign's forum."""
        return cls(Remote(actor_name(campaign, "forum")))

    async def post(self, key: str, author: str, draft: dict[str, Any]) -> dict[str, Any]:
        """Publish a draft, once per key. Raises `RefusedError`."""
        return await self._actor.call("post", key, author, draft)  # type: ignore[no-any-return]

    async def read(self, reader: str, post_id: str) -> dict[str, Any]:
        """One post, with its page under `rendered`: the author's text between lines that no author can foresee."""
        return await self._actor.call("read", reader, post_id)  # type: ignore[no-any-return]

    async def unread(self, reader: str, after_seq: int, limit: int) -> list[dict[str, Any]]:
        """Posts of others with greater numbers than `after_seq`, oldest first."""
        return await self._actor.call("unread", reader, after_seq, limit)  # type: ignore[no-any-return]

    async def news(self, reader: str, after_seq: int, wait_s: float) -> int:
        """The number of the latest post that `reader` may have, as soon as it is another than `after_seq`, or after
        `wait_s` seconds.
        """
        return await self._actor.call("news", reader, after_seq, wait_s)  # type: ignore[no-any-return]

    async def search(self, query: str, limit: int = 20) -> list[dict[str, Any]]:
        """Posts by words."""
        return await self._actor.call("search", query, limit)  # type: ignore[no-any-return]

    async def claims(self) -> list[dict[str, Any]]:
        """Claims that hold now."""
        return await self._actor.call("claims")  # type: ignore[no-any-return]

    async def push_code(self, key: str, author: str, files: dict[str, str], parent: str | None, note: str) -> str:
        """Keep a snapshot; its sha256."""
        return await self._actor.call("push_code", key, author, files, parent, note)  # type: ignore[no-any-return]

    async def fetch_code(self, reader: str, sha: str) -> dict[str, str]:
        """The files of a snapshot."""
        return await self._actor.call("fetch_code", reader, sha)  # type: ignore[no-any-return]

    async def lineage(self, sha: str) -> list[dict[str, Any]]:
        """A snapshot and its ancestors, nearest first."""
        return await self._actor.call("lineage", sha)  # type: ignore[no-any-return]

    async def diff(self, reader: str, sha_a: str, sha_b: str) -> str:
        """A unified diff between two snapshots."""
        return await self._actor.call("diff", reader, sha_a, sha_b)  # type: ignore[no-any-return]

    async def sync(self, reader: str, directory: str) -> dict[str, Any]:
        """Bring `<directory>/forum/` up to date: `{reader, written, posts}`."""
        return await self._actor.call("sync", reader, directory)  # type: ignore[no-any-return]

    async def head(self) -> dict[str, Any]:
        """The head of the forum's journal: `{seq, hash}`."""
        return await self._actor.call("head")  # type: ignore[no-any-return]
