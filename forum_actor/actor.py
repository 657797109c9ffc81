"""The forum's actor: a shell around `Forum` and `CodeStore`, which hold all of the logic and all of the state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray

from cluster.config import CampaignConfig
from cluster.errors import Reason, RefusedError
from cluster.journal import Journal
from cluster.names import RunPaths, actor_name
from cluster.objects import ObjectStore
from cluster.remote import Remote
from cluster.store import Store
from forum_actor.code_store import CodeStore
from forum_actor.forum import Forum
from forum_actor.posts import Post
from forum_actor.render import render
from forum_actor.sync import sync

T = TypeVar("T")


@ray.remote(max_restarts=-1, max_task_retries=-1)
class ForumActor:
    """The forum of one campaign; all state is read again from `run_dir` after a restart.

    What takes long or waits for a disk is done aside, one such call after another, while everybody else is answered.
    """

    def __init__(self, run_dir: str, config: dict[str, Any]) -> None:
        paths = RunPaths(Path(run_dir))
        self._campaign = paths.root.name
        settings = CampaignConfig.model_validate(config).forum
        store = Store(paths.forum_db)
        journal = Journal(store)
        self._journal = journal
        self._code = CodeStore(ObjectStore(paths.objects), store, journal, settings)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="forum-aside")
        evaluator = Remote(actor_name(self._campaign, "evaluator"))
        # The evaluator's client stands on a floor above this one.
        self._forum = Forum(store, journal, settings, partial(evaluator.call, "record_summaries"), self._code.has)

    async def post(self, key: str, author: str, draft: dict[str, Any]) -> dict[str, Any]:
        """Publish; see `Forum.post`."""
        return await self._forum.post(key, author, draft)

    async def read(self, reader: str, post_id: str) -> dict[str, Any]:
        """One post, with its page under `rendered`: the author's text between lines that no author can foresee."""
        post = self._forum.read(post_id)
        self._forum.opened(reader, post["id"])
        return {**post, "rendered": render(Post.from_dict(post), os.urandom(8).hex())}

    async def unread(self, reader: str, after_seq: int, limit: int) -> list[dict[str, Any]]:
        """Posts of others with greater numbers."""
        return self._forum.unread(reader, after_seq, limit)

    @ray.method(max_task_retries=0)
    async def news(self, reader: str, after_seq: int, wait_s: float) -> int:
        """The number of the latest post that `reader` may have, as soon as it is another than `after_seq`. Who waits
        asks again by itself when the forum dies.
        """
        return await self._forum.news(reader, after_seq, wait_s)

    async def search(self, query: str, limit: int = 20) -> list[dict[str, Any]]:
        """Posts by words."""
        return self._forum.search(query, limit)

    async def claims(self) -> list[dict[str, Any]]:
        """Claims that hold now."""
        return self._forum.claims_active()

    async def push_code(self, key: str, author: str, files: dict[str, str], parent: str | None, note: str) -> str:
        """Keep a snapshot; its sha256."""
        return await self._beside(lambda: self._code.push(key, author, files, parent, note))

    async def fetch_code(self, reader: str, sha: str) -> dict[str, str]:
        """The files of a snapshot."""
        files = self._code.fetch(sha)
        self._code.read_by(reader, sha)
        return files

    async def lineage(self, sha: str) -> list[dict[str, Any]]:
        """A snapshot and its ancestors."""
        return self._code.lineage(sha)

    async def diff(self, reader: str, sha_a: str, sha_b: str) -> str:
        """A unified diff between two snapshots."""
        shown = await self._beside(lambda: self._code.diff(sha_a, sha_b))
        self._code.read_by(reader, sha_a, sha_b, how="compared")
        return shown

    async def sync(self, reader: str, directory: str) -> dict[str, Any]:
        """Bring `<directory>/forum/` up to date, where `directory` is the workspace of `reader`."""
        written, held = 0, None
        while held != (now_held := self._forum.held()):  # a post that was held meanwhile is taken away again
            posts, held = self._forum.posts(), now_held
            written += await self._beside(partial(_synced, directory, posts, held))
            if written:
                self._forum.copied(reader, posts[-1].seq)
        return {"reader": reader, "written": written, "posts": len(posts)}

    async def _beside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._aside, work)

    async def head(self) -> dict[str, Any]:
        """The head of the forum's journal, for the director's anchors."""
        seq, digest = self._journal.head()
        return {"seq": seq, "hash": digest}

    def __repr__(self) -> str:
        return f"{self._campaign}/forum"


def _synced(directory: str, posts: list[Post], held: list[Post]) -> int:
    try:
        return sync(Path(directory), posts, held)
    except OSError as error:
        raise RefusedError(Reason.WORKSPACE, f"the forum cannot be written into the workspace: {error}") from error
