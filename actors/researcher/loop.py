"""The researcher: observe, decide, act, again, until something ends it.

Promises:
- A turn is written ahead; after a crash at any point it continues with the calls that have no result, under the
  same keys `<researcher>/<turn>/<index>`, so that no office acts twice.
- Whatever a tool, an office or a brain answers, the loop goes on; it ends by budget, turns, time, a stop, or the
  brain's own wish, and says which. Unless the brain ended it, one last turn of free calls lets it share what it
  learned.
- The wall time of every turn is charged to the researcher's account, once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from actors.researcher.account import Account
from actors.researcher.brains.base import Brain
from actors.researcher.ends import END_BRAIN_FAILED, END_DONE, END_STOPPED, ending
from actors.researcher.progress import Progress
from actors.researcher.tools import ForumApi, ToolBox
from actors.researcher.transcript import OpenTurn, Transcript
from actors.researcher.types import FINISH, Observation, Seen, ToolCall, ToolResult
from cluster.errors import AarError

log = logging.getLogger(__name__)
UNREAD_LIMIT = 50
BRAIN_ATTEMPTS = 5
BACKOFF_S = 1.0
MAX_CALLS = 16
"""Calls of one turn that are kept; more are dropped, a brain sees that in its history."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Who the researcher is and what bounds it, apart from its account."""

    researcher: str
    direction: str
    task: dict[str, Any]
    max_turns: int
    seconds: float | None
    forum: bool
    workspace: str


class Researcher:
    """One researcher; `run` carries it to its end, however often it is called."""

    def __init__(
        self,
        profile: Profile,
        brain: Brain,
        toolbox: ToolBox,
        transcript: Transcript,
        account: Account,
        forum: ForumApi,
        failures: tuple[type[Exception], ...] = (),
        stopping: asyncio.Event | None = None,
    ) -> None:
        """`failures` are errors of the transport that count as an office that does not answer; `stopping` is set by a
        stop, for tools that wait.
        """
        self._profile = profile
        self._brain = brain
        self._tools = toolbox
        self._transcript = transcript
        self._account = account
        self._forum = forum
        self._failures: tuple[type[Exception], ...] = (AarError, *failures)
        self._mark = time.monotonic()
        self._action = "waiting to start"
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self._stop = stopping or asyncio.Event()

    async def run(self) -> dict[str, Any]:
        """Work to the end and return the summary. A second call joins the first; after the end it only answers."""
        if self._task is None or (self._task.done() and self._transcript.fact("ended") is None):
            self._task = asyncio.create_task(self._work())
        return await asyncio.shield(self._task)

    async def stop(self, reason: str = "the research phase is over") -> None:
        """End after the running call; durable, so that a restarted researcher ends, too."""
        if self._transcript.fact("ended") is None:
            self._transcript.set_fact("stop", {"reason": reason})
        self._stop.set()

    def status(self) -> dict[str, Any]:
        """State, turn, last action and counts."""
        progress = Progress.of(self._transcript.history)
        return {
            "state": self.state,
            "turn": self._transcript.next_turn(),
            "last_action": self._action,
        } | progress.to_dict()

    @property
    def state(self) -> str:
        """`idle`, `working` or `ended`."""
        if self._transcript.fact("ended") is not None:
            return "ended"
        return "working" if self._task is not None and not self._task.done() else "idle"

    def summary(self) -> dict[str, Any]:
        """What the researcher did, from its transcript alone."""
        ended = self._transcript.fact("ended") or {}
        progress = Progress.of(self._transcript.history)
        return {
            "researcher": self._profile.researcher,
            "direction": self._profile.direction,
            "state": self.state,
            "ended": ended.get("reason", ""),
            "turns": self._transcript.next_turn(),
            "wall_ms": self._transcript.wall_ms(),
            **progress.to_dict(),
        }

    async def _work(self) -> dict[str, Any]:
        self._mark = time.monotonic()
        if self._transcript.fact("started") is None:
            self._transcript.set_fact("started", {"direction": self._profile.direction})
        open_turn = self._transcript.open_turn()
        if open_turn is not None:
            await self._act(open_turn)
        while self._transcript.fact("ended") is None:
            await self._charge()
            reason = self._over()
            if not reason:
                await self._turn()
            else:
                self._transcript.set_fact("ended", {"reason": reason})
        self._action = "ended"
        return self.summary()

    def _over(self) -> str:
        """Why the researcher is at its end: its last turn said so."""
        history = self._transcript.history
        if not history:
            return ""
        last = history[-1]
        if last.seen.ending:
            return last.seen.ending
        return END_DONE if not last.done or any(done.call.name == FINISH for done in last.done) else ""

    async def _turn(self) -> None:
        seen, calls = await self._decide()
        self._transcript.begin(self._transcript.next_turn(), seen, calls)
        open_turn = self._transcript.open_turn()
        if open_turn is not None:
            await self._act(open_turn)

    async def _decide(self) -> tuple[Seen, list[ToolCall]]:
        """Observe and ask the brain, patiently; when it cannot decide, that is the end."""
        self._action = "deciding"
        for attempt in range(BRAIN_ATTEMPTS):
            try:
                seen = await self._observe()
                return seen, (await self._brain.decide(self._observation(seen)))[:MAX_CALLS]
            except self._failures as error:
                log.warning("%s cannot decide: %s", self._profile.researcher, error)
                if await self._stopped_within(BACKOFF_S * 2**attempt):
                    return Seen(ending=END_STOPPED), []
        return Seen(ending=END_BRAIN_FAILED), []

    def _observation(self, seen: Seen) -> Observation:
        profile, history = self._profile, self._transcript.history
        return Observation(
            profile.researcher, len(history), profile.direction, profile.task, history, seen, self._tools.names
        )

    async def _observe(self) -> Seen:
        budget = await self._account.balance()
        left = self._seconds_left(budget)
        stopped = self._stop.is_set() or self._transcript.fact("stop") is not None
        why = ending(budget, left, self._transcript.next_turn(), self._profile.max_turns, stopped)
        posts = await self._unread() if self._profile.forum else []
        return Seen(tuple(posts), budget, left, why)

    async def _unread(self) -> list[dict[str, Any]]:
        """New posts; those that an earlier turn has already stored are not shown twice."""
        known = max((post["seq"] for turn in self._transcript.history for post in turn.seen.posts), default=0)
        posts = await self._forum.unread(self._profile.researcher, UNREAD_LIMIT)
        return [post for post in posts if post["seq"] > known]

    def _seconds_left(self, budget: dict[str, Any]) -> float | None:
        wall = (budget.get("left") or {}).get("wall_ms")
        limits = [] if wall is None else [wall / 1000]
        if self._profile.seconds is not None:
            worked = self._transcript.wall_ms() / 1000 + time.monotonic() - self._mark
            limits.append(self._profile.seconds - worked)
        return round(min(limits), 3) if limits else None

    async def _act(self, turn: OpenTurn) -> None:
        """Run the calls that have no result yet, then close the turn."""
        await self._acknowledge(turn.seen)
        for pending in turn.calls:
            if pending.result is not None:
                continue
            self._action = f"{pending.call.name} {pending.call.note}".strip()
            result = self._not_now(turn, pending.call, pending.started)
            if result is None:
                if not self._tools.is_repeatable(pending.call.name):
                    self._transcript.mark_started(turn.number, pending.index)
                key = f"{self._profile.researcher}/{turn.number}/{pending.index}"
                result = await self._tools.run(pending.call, key)
            self._transcript.store_result(turn.number, pending.index, result)
        now = time.monotonic()
        self._transcript.finish(turn.number, math.ceil((now - self._mark) * 1000))
        self._mark = now

    def _not_now(self, turn: OpenTurn, call: ToolCall, started: bool) -> ToolResult | None:
        """The result of a call that must not run: it costs while nothing may be spent, or was may have had effects."""
        if started and not self._tools.is_repeatable(call.name):
            return ToolResult.refused(
                "interrupted", "the researcher was restarted while this ran; it may have had effects"
            )
        stopping = turn.seen.ending or (END_STOPPED if self._stop.is_set() else "")
        if stopping and not self._tools.is_free(call.name):
            return ToolResult.refused("ending", f"only free tools are left: {stopping}")
        return None

    async def _acknowledge(self, seen: Seen) -> None:
        """Tell the forum that the turn's posts are stored, and renew their copy in the workspace."""
        if not seen.posts:
            return
        try:
            await self._forum.ack(self._profile.researcher, max(post["seq"] for post in seen.posts))
            await self._forum.sync(self._profile.researcher, self._profile.workspace)
        except self._failures as error:
            log.warning("%s: the forum did not take an acknowledgement: %s", self._profile.researcher, error)

    async def _charge(self) -> None:
        for turn, wall_ms in self._transcript.uncharged():
            try:
                await self._account.charge_wall(f"{self._profile.researcher}/{turn}/wall", wall_ms)
            except self._failures as error:
                log.warning("%s: wall time of turn %d is charged later: %s", self._profile.researcher, turn, error)
                return
            self._transcript.mark_charged(turn)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return False
        return True
