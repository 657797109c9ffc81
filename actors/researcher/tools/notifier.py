"""What the forum has for a researcher, known without asking each time.

A question stands open at the forum (a long poll), which answers as soon as there is a later post; posts are asked for
only then. While it is known that the forum does not answer, they are asked for every time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from forum_actor.client import ForumClient

log = logging.getLogger(__name__)
UNREAD_LIMIT = 50
"""Posts that are asked for at once."""
OPEN_S = 60.0
"""How long one question stays open."""
REST_S = 5.0
"""Until a forum that failed is asked again."""
_NOTHING = -1
"""No post has it, so that the first question is answered at once."""


class Notifier:
    """Follows the forum for `reader`."""

    def __init__(self, forum: ForumClient, reader: str) -> None:
        self._forum = forum
        self._reader = reader
        self._latest: int | None = None
        self._task: asyncio.Task[None] | None = None
        self.seen = 0
        """The greatest number of a post that the reader was shown."""
        self.changed = asyncio.Event()
        """Set when there may be new posts; whoever waits for it clears it first."""

    def follow_forum(self) -> None:
        """Begin, inside the event loop; repeated calls do nothing."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll_forum())

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def shown(self, posts: Iterable[dict[str, Any]]) -> None:
        """The reader was shown these posts."""
        self.seen = max([self.seen, *(post["seq"] for post in posts)])

    async def unread(self, after: int) -> list[dict[str, Any]]:
        """Posts of others with greater numbers than `after`, oldest first, at most `UNREAD_LIMIT`."""
        if self._latest is not None and self._latest <= after:
            return []
        return await self._forum.unread(self._reader, after, UNREAD_LIMIT)

    async def _poll_forum(self) -> None:
        try:
            while True:
                after = _NOTHING if self._latest is None else self._latest
                try:
                    latest = await self._forum.news(self._reader, after, OPEN_S)
                except Exception as error:  # noqa: BLE001  # else a wait would sleep on
                    log.warning("%s: the forum does not say what is new: %s", self._reader, error)
                    self._latest = None
                    await asyncio.sleep(REST_S)
                    continue
                if latest != self._latest:
                    self._latest = latest
                    self.changed.set()
        finally:
            self._latest = None
