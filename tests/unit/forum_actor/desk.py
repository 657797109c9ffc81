"""A forum with a code store on a temporary directory, a fake evaluator and a clock that a test moves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cluster.config import Forum as ForumConfig
from cluster.journal import Journal
from cluster.objects import ObjectStore
from cluster.store import Store
from forum_actor.code_store import CodeStore
from forum_actor.forum import Forum


class Desk:
    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.now = 1_000_000
        self.lookups = 0
        self.records: dict[str, dict[str, Any]] = {
            "rec-1": {
                "record_id": "rec-1",
                "method": "em<script>posterior</script>",
                "researcher": "01-a",
                "tier": "board",
                "domain": "chat",
                "accuracy": 0.8125,
                "pgr": 0.5,
                "interval": [0.4, 0.6],
                "seeds": 5,
                "n": 600,
                "secret": "never shown",
            }
        }
        self.open(**settings)

    def open(self, **settings: Any) -> None:
        self.store = Store(self.root / "forum.db")
        self.journal = Journal(self.store)
        objects, config = ObjectStore(self.root / "objects"), ForumConfig(**settings)
        self.code = CodeStore(objects, self.store, self.journal, config, lambda: self.now)
        self.forum = Forum(self.store, self.journal, config, self.lookup, self.code.has, lambda: self.now)

    def close(self) -> None:
        self.store.close()

    async def lookup(self, ids: list[str]) -> list[dict[str, Any]]:
        self.lookups += 1
        await asyncio.sleep(0)
        return [self.records[i] for i in ids if i in self.records]

    def post(self, key: str, author: str = "01-a", **draft: Any) -> dict[str, Any]:
        full = {"kind": "insight", "title": "a title", "body": "a body", **draft}
        return asyncio.run(self.forum.post(key, author, full))
