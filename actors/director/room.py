"""Whether a campaign has room to go on: its places and its stores, looked at every few seconds, in every phase.

Promises: when a place is full, read-only or gone, or a store is locked, the campaign pauses within seconds: no lease is
granted, no researcher acts or is charged, research time stands still. It is said in the status, in the director's
journal and in the forum. When there is room again, all of it goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cluster.clock import StopWatchClock
from cluster.config import CampaignConfig
from cluster.errors import AarError
from cluster.journal import Journal
from cluster.names import CAMPAIGN, RunPaths
from cluster.storage import Ballast, Place, StorageError, StoreProbe
from forum_actor.client import ForumClient
from gpu_pool.cache import NodeCache, least_free_bytes

log = logging.getLogger(__name__)
CHECK_S = 2.0
TELL_S = 5.0
"""How long one office may take to hear of a pause, before it is told again at the next look."""
PAUSED_TITLE, ON_TITLE = "The campaign is paused", "The campaign goes on"
_MOST_BALLAST, _LEAST_BALLAST = 8 << 20, 1 << 20


class PausableApi(Protocol):
    """Who stands still during a pause."""

    async def pause(self, reason: str) -> None:
        """Begin nothing new; said again as long as the pause lasts."""

    async def go_on(self) -> None:
        """The pause is over."""


def places(paths: RunPaths, config: CampaignConfig) -> tuple[Place, ...]:
    """Every directory that a campaign's services write to, each file system once."""
    least = least_free_bytes(config.pool)
    ray_home = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    return (
        Place("run directory", paths.root, least),
        Place("cache", NodeCache.of(config.pool).root, least),
        Place("scratch directory", Path(tempfile.gettempdir()), least),
        Place("directory of Ray", ray_home, least),
    )


@dataclass(slots=True)
class Pause:
    """A pause that lasts: why, for how long, and what of it stands on disk."""

    reason: str
    number: int
    clock: StopWatchClock
    journaled: bool = False
    posted: bool = False


class RoomGuard:
    """Watches the places; `research` is the clock that stands still during a pause."""

    def __init__(
        self,
        paths: RunPaths,
        config: CampaignConfig,
        journal: Journal,
        others: Callable[[], Mapping[str, PausableApi]],
        forum: ForumClient | None,
        research: StopWatchClock,
    ) -> None:
        self._paths, self._journal, self._others, self._forum = paths, journal, others, forum
        self._places = places(paths, config)
        self._probe = StoreProbe()
        room = min(_MOST_BALLAST, max(_LEAST_BALLAST, least_free_bytes(config.pool) // 2))
        self._ballast = Ballast(paths.root / ".ballast", room)
        self._research = research
        self._pauses = len(journal.events(kind="paused"))
        self._stores: dict[str, Path] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self.pause: Pause | None = None

    def status(self) -> dict[str, Any] | None:
        """`{reason, seconds}` of a pause, or `None`."""
        return None if self.pause is None else {"reason": self.pause.reason, "seconds": round(self.pause.clock(), 1)}

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        self._ballast.take()
        await self.look()
        if self.pause is None:  # one that a predecessor did not live to end
            self._close_in_journal()
            self._tell(lambda other: other.go_on())
        while True:
            await asyncio.sleep(CHECK_S)
            await self.look()

    def _close_in_journal(self) -> None:
        over = {event.payload["number"] for event in self._journal.events(kind="went_on")}
        for number in range(1, self._pauses + 1):
            if number not in over:
                self._journal.append("went_on", {"number": number, "seconds": None})

    async def look(self) -> None:
        """Look once, and pause or go on."""
        faults = await asyncio.to_thread(self._faults)
        if faults:
            self._begin("; ".join(faults))
        elif self.pause is not None:
            try:
                self._end(self.pause)
            except StorageError as error:
                log.warning("the pause lasts: %s", error)

    def _faults(self) -> list[str]:
        found = [fault for place in self._places if (fault := place.fault()) is not None]
        self._stores |= self._paths.databases()  # one that was there must stay there
        return found + self._probe.faults(self._stores)

    def _begin(self, reason: str) -> None:
        if self.pause is None:
            log.error("the campaign is paused: %s", reason)
            self._pauses += 1
            self.pause = Pause(reason, self._pauses, StopWatchClock())
            self._research.stop()
            self._ballast.give()
        self.pause.reason = reason
        self._tell(lambda other: other.pause(reason))
        self._write_down(self.pause)

    def _write_down(self, pause: Pause) -> None:
        if not pause.journaled:
            try:
                self._journal.append("paused", {"number": pause.number, "reason": pause.reason})
                pause.journaled = True
            except StorageError as error:
                log.warning("the pause is written down later: %s", error)
        if self._forum is not None and not pause.posted:
            pause.posted = True
            self._post(f"pause/{pause.number}", PAUSED_TITLE, f"Nothing is lost, nobody is charged: {pause.reason}.")

    def _end(self, pause: Pause) -> None:
        self._write_down(pause)
        self._journal.append("went_on", {"number": pause.number, "seconds": round(pause.clock(), 3)})
        log.warning("the campaign goes on after %.0f s", pause.clock())
        self.pause = None
        self._research.go()
        self._ballast.take()
        self._tell(lambda other: other.go_on())
        if self._forum is not None:
            self._post(f"pause/{pause.number}/over", ON_TITLE, f"It was paused for {pause.clock():.0f} s.")

    def _post(self, key: str, title: str, body: str) -> None:
        assert self._forum is not None
        draft = {"kind": "error", "title": title, "body": f"Said by the campaign: {body}"}
        self._start(self._forum.post(key, CAMPAIGN, draft), None)

    def _tell(self, what: Callable[[PausableApi], Awaitable[None]]) -> None:
        """Tell everybody, beside everything else: one who does not answer keeps nobody waiting."""
        for other in self._others().values():
            self._start(what(other), TELL_S if self.pause is not None else None)

    def _start(self, call: Awaitable[Any], timeout_s: float | None) -> None:
        async def made() -> None:
            try:
                await asyncio.wait_for(call, timeout_s)
            except (AarError, TimeoutError) as error:
                log.warning("not heard: %s", error)

        task = asyncio.create_task(made())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
