"""The researcher: observe, decide, act, again, until something ends it.

Promises:
- A turn is written ahead; after a crash at any point it continues with the same observation, the same decision, and
  the calls that have no result, under the same keys `<researcher>/<turn>/<index>`, so that no service acts twice.
- Whatever a tool, a service or a brain answers, the loop goes on; it ends by budget, turns, time, a stop, a stall or
  the brain's own wish, and says which. Unless the brain ended it, one last turn of free calls lets it share what it
  learned; a brain that cannot decide any more leaves its notebook as a post.
- A researcher that stalls is told, then rests, and says so in the forum.
- The wall time of every turn is charged to the researcher's account, once; that of a turn which a crash cut short up to
  its last result.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from actors.researcher.account import Account
from actors.researcher.brains.base import Brain
from actors.researcher.progress import Progress
from actors.researcher.retry_policy import Step, next_step, reason_of
from actors.researcher.stall_detection import PAUSED_TITLE, Stall, assess
from actors.researcher.stop_conditions import END_BRAIN_FAILED, END_BUDGET, END_DONE, END_STOPPED, END_TIME, ending
from actors.researcher.tools import ToolBox, wait_for_news
from actors.researcher.transcript import OpenTurn, Pending, Transcript
from actors.researcher.types import FINISH, Decision, Observation, ToolCall, ToolResult, TurnInput
from cluster.clock import StopWatchClock
from cluster.errors import AarError, Reason, RefusedError
from cluster.storage import StorageError
from forum_actor.posts import MAX_BODY, fitting

log = logging.getLogger(__name__)
T = TypeVar("T")
ROOM_S = 1.0
"""How soon a write that found no room is tried again."""
MAX_CALLS = 16
"""Calls of one turn that are kept; more are dropped, a brain sees that in its history."""
CHARGE_AFTER_S = 0.2
"""Wall time is charged when the brain has thought for so long, so that its call of a model does not wait for it."""
MOST_REASON = 1000
"""Characters of why the work ended that a last post holds."""
ENDED = "Said by the campaign: {why}.\n\n"
REDIRECTED = (
    "A word of the campaign: the team's ideas have become alike. Bring what you are at to an end, and then start from "
    "another direction, which nobody else has: {direction}"
)


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
    watched: bool = False
    """Whether stalling is looked for: a language model's needs it, a search that ends by itself does not."""


class Researcher:
    """One researcher; `run` carries it to its end, however often it is called."""

    def __init__(
        self, profile: Profile, brain: Brain, toolbox: ToolBox, transcript: Transcript, account: Account
    ) -> None:
        self._profile = profile
        self._brain = brain
        self._tools = toolbox
        self._ctx = toolbox.ctx
        self._transcript = transcript
        self._account = account
        self._failures: tuple[type[Exception], ...] = (AarError, *self._ctx.failures)
        self._time = StopWatchClock()
        """Stands still while the campaign is paused."""
        self._going = asyncio.Event()
        self._going.set()
        self._pause = ""
        self._mark = self._time()
        self._action = "waiting to start"
        self._paused = False
        self._opened = False
        self._task: asyncio.Task[dict[str, Any]] | None = None

    async def run(self) -> dict[str, Any]:
        """Work to the end and return the summary. A second call joins the first; after the end it only answers."""
        if self._task is None or (self._task.done() and self._transcript.fact("ended") is None):
            self._task = asyncio.create_task(self._work())
        return await asyncio.shield(self._task)

    async def stop(self, reason: str = "the research phase is over") -> None:
        """End after the running call; durable, so that a restarted researcher ends, too."""
        if self._transcript.fact("ended") is None:
            self._transcript.set_fact("stop", {"reason": reason})
        self._ctx.stopping.set()

    async def pause(self, reason: str) -> None:
        """Begin no step and count no time until `go_on`; a call that runs goes on."""
        self._pause = reason
        self._time.stop()
        self._going.clear()

    async def go_on(self) -> None:
        """The pause is over."""
        self._pause = ""
        self._time.go()
        self._going.set()

    async def _written(self, write: Callable[[], T]) -> T:
        """What a write to the transcript gives, as soon as there is room for it."""
        while True:
            await self._going.wait()
            try:
                return write()
            except StorageError as error:
                log.warning("%s waits: %s", self._profile.researcher, error)
                await asyncio.sleep(ROOM_S)

    def status(self) -> dict[str, Any]:
        """State, turn, last action and counts."""
        progress = Progress.of(self._transcript.history)
        return {
            "state": self.state,
            "turn": self._transcript.next_turn(),
            "last_action": f"paused: {self._pause}" if self._pause else self._action,
        } | progress.to_dict()

    @property
    def state(self) -> str:
        """`idle`, `working`, `paused` or `ended`."""
        if self._transcript.fact("ended") is not None:
            return "ended"
        if self._task is None or self._task.done():
            return "idle"
        return "paused" if self._paused or self._pause else "working"

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
        self._mark = self._time()
        if self._transcript.fact("stop") is not None:
            self._ctx.stopping.set()
        if self._transcript.fact("started") is None:
            await self._written(lambda: self._transcript.set_fact("started", {"direction": self._profile.direction}))
        self._tools.resume()
        for seen in self._transcript.observed():
            self._ctx.notifier.shown(seen.posts)
        if self._profile.forum:
            self._ctx.notifier.follow_forum()
        try:
            while (turn := await self._open_turn()) is not None:
                await self._act(turn if turn.decided else await self._decide(turn))
        finally:
            await self._ctx.notifier.stop()
        self._action = "ended"
        return self.summary()

    async def _open_turn(self) -> OpenTurn | None:
        """The turn that a predecessor left open, else a new one; `None` at the end."""
        await self._going.wait()
        left_open = self._transcript.open_turn()
        if left_open is not None:
            return left_open
        reason = self._over()
        if reason or self._account.wall_is_shared:
            await self._charge()
        if reason:
            await self._tools.abandon()
            await self._written(lambda: self._transcript.set_fact("ended", {"reason": reason}))
            return None
        stall = assess(self._transcript.history) if self._profile.watched else Stall()
        if stall.action == "pause":
            await self._charge()
            await self._rest(stall)
        seen = await self._observe_patiently(stall)
        lap = self._lap()
        turn = await self._written(lambda: self._transcript.observe(self._transcript.next_turn(), seen, lap))
        self._ctx.notifier.shown(seen.posts)
        return turn

    def _lap(self, last: bool = False) -> int:
        """Whole milliseconds of wall time since this was last asked; a rest counts to the next, or is rounded up when
        this is the `last` of a turn.
        """
        now = self._time()
        passed = (now - self._mark) * 1000
        wall_ms = math.ceil(passed) if last else int(passed)
        self._mark = now if last else self._mark + wall_ms / 1000
        return wall_ms

    def _over(self) -> str:
        """Why the researcher is at its end: its last turn said so."""
        history = self._transcript.history
        if not history:
            return ""
        last = history[-1]
        return last.ending or (END_DONE if any(done.call.name == FINISH for done in last.done) else "")

    async def _rest(self, stall: Stall) -> None:
        """Do nothing for a while, unless something happens, and say so."""
        self._paused, self._action = True, f"paused: {stall.text}"
        if self._profile.forum:
            key = f"{self._profile.researcher}/{self._transcript.next_turn()}/pause"
            draft = {"kind": "error", "title": PAUSED_TITLE, "body": f"Said by the campaign: {stall.text}"}
            try:
                await self._ctx.forum.post(key, self._profile.researcher, draft)
            except self._failures as error:
                # A turn that pauses once more, for another reason, has told the forum already.
                if not (isinstance(error, RefusedError) and error.reason is Reason.KEY_REUSED):
                    log.warning("%s: the forum did not take the news of a pause: %s", self._profile.researcher, error)
        await wait_for_news(self._ctx, stall.seconds, "any")
        self._paused = False

    # -- observing and deciding ------------------------------------------------------------------------------------

    async def _observe_patiently(self, stall: Stall) -> TurnInput:
        """The observation, asked for again while the services do not answer, as patiently as the errors deserve."""
        self._action = "observing"
        attempts: Counter[str] = Counter()
        while True:
            try:
                seen = await self._observe(stall)
            except self._failures as error:
                step = self._step("observe", error, attempts)
            else:
                self._paused = False
                return seen
            if step.action != "wait":
                return TurnInput(ending=f"{END_BRAIN_FAILED}: {step.text}")
            if why := await self._hold(step):
                return TurnInput(ending=why)

    async def _observe(self, stall: Stall) -> TurnInput:
        if not self._opened:
            await self._account.open()
            self._opened = True
        news, going = self._ctx.runs.untold(), self._ctx.runs.going()
        budget = self._with_wall((await self._account.balance()).to_dict())
        left = self._seconds_left()
        stopped = self._ctx.stopping.is_set() or self._transcript.fact("stop") is not None
        why = ending(budget, left, self._transcript.next_turn(), self._profile.max_turns, stopped)
        if stall.action == "end":
            why = why or stall.text
        return TurnInput(
            posts=tuple(await self._ctx.notifier.unread(self._ctx.notifier.seen) if self._profile.forum else []),
            budget=budget,
            seconds_left=left,
            ending=why,
            news=tuple(run.told() for run in news),
            running=tuple(run.name for run in going),
            note="\n\n".join(filter(None, [stall.text if stall.action in ("nudge", "pause") else "", self._notice()])),
        )

    def _notice(self) -> str:
        """The new direction, until a turn has been told of it."""
        moved = self._transcript.redirected
        if moved is None:
            return ""
        notice = REDIRECTED.format(direction=moved["direction"])
        told = any(notice in turn.seen.note for turn in self._transcript.history[moved["turn"] :])
        return "" if told else notice

    def _seconds_left(self) -> float | None:
        """Until the researcher must end, by its own clock."""
        caps = [] if self._account.most_wall_ms is None else [self._account.most_wall_ms / 1000]
        limits = caps if self._profile.seconds is None else [*caps, self._profile.seconds]
        return round(min(limits) - self._worked_ms() / 1000, 3) if limits else None

    def _worked_ms(self) -> float:
        return self._transcript.wall_ms() + (self._time() - self._mark) * 1000

    def _with_wall(self, budget: dict[str, Any]) -> dict[str, Any]:
        """A balance that says so when the researcher's own wall time is used up, of which some is not charged yet."""
        most = self._account.most_wall_ms
        if most is None or self._worked_ms() < most or "wall_ms" in budget["exhausted"]:
            return budget
        return {**budget, "exhausted": [*budget["exhausted"], "wall_ms"]}

    async def _decide(self, turn: OpenTurn) -> OpenTurn:
        await self._going.wait()
        self._action = "deciding"
        thinking = asyncio.create_task(self._decision(turn))
        try:
            await asyncio.wait({thinking}, timeout=CHARGE_AFTER_S)
            await self._charge()
            decision = await thinking
        finally:
            thinking.cancel()
        self._paused = False
        lap, kept = self._lap(), replace(decision, calls=decision.calls[:MAX_CALLS])
        return await self._written(lambda: self._transcript.decide(turn, kept, lap))

    async def _decision(self, turn: OpenTurn) -> Decision:
        """Ask the brain, as patiently as the errors deserve."""
        seen = turn.seen
        attempts: Counter[str] = Counter()
        while True:
            try:
                decision = await self._brain.decide(self._observation(seen))
            except self._failures as error:
                step = self._step("decide", error, attempts)
            else:
                return replace(decision, ending=decision.ending or seen.ending)
            if step.action == "last" and not seen.ending:
                seen = replace(seen, ending=f"{END_BUDGET}: {step.text}")
            elif step.action != "wait":
                return self._last_words(seen.ending or f"{END_BRAIN_FAILED}: {step.text}")
            elif why := await self._hold(step):
                return self._last_words(seen.ending or why)

    def _step(self, what: str, error: Exception, attempts: Counter[str]) -> Step:
        """What follows on an error; `attempts` counts those before it by their reason, and counts this one."""
        log.warning("%s cannot %s: %s", self._profile.researcher, what, error)
        reason = reason_of(error)
        step = next_step(error, attempts[reason], running=bool(self._ctx.runs.going()))
        attempts[reason] += 1
        return step

    async def _hold(self, step: Step) -> str:
        """Wait before a service or the brain is asked again; why it must not be, or ""."""
        self._paused, self._action = True, f"paused: {step.text}"
        left = self._seconds_left()
        if await self._stopped_within(step.seconds if left is None else max(0.0, min(step.seconds, left))):
            return END_STOPPED
        left = self._seconds_left()
        return END_TIME if left is not None and left <= 0 else ""

    def _last_words(self, why: str) -> Decision:
        """The last turn of a brain that decides nothing any more: its notebook, as a post."""
        if "forum_post" not in self._tools.names:
            return Decision(ending=why)
        reason = ENDED.format(why=why[:MOST_REASON])
        body = reason + fitting(self._ctx.workspace.notebook(), end=True)[-(MAX_BODY - len(reason)) :]
        draft = {"kind": "insight", "title": "My notebook at the end", "body": fitting(body)}
        return Decision((ToolCall("forum_post", draft, "its last words"),), ending=why)

    def _observation(self, seen: TurnInput) -> Observation:
        profile, history, moved = self._profile, self._transcript.history, self._transcript.redirected
        direction = profile.direction if moved is None else str(moved["direction"])
        return Observation(profile.researcher, len(history), direction, profile.task, history, seen, self._tools.names)

    # -- acting ----------------------------------------------------------------------------------------------------

    async def _act(self, turn: OpenTurn) -> None:
        """Run the calls that have no result yet, then close the turn."""
        if turn.seen.posts:
            await self._copy_posts()
        for pending in turn.calls:
            if pending.result is None:
                await self._call(turn, pending)
        lap = self._lap(last=True)
        await self._written(lambda: self._transcript.finish(turn.number, lap))

    async def _call(self, turn: OpenTurn, pending: Pending) -> None:
        number, index = turn.number, pending.index
        await self._going.wait()
        self._action = f"{pending.call.name} {pending.call.note}".strip()
        result = self._not_now(turn, pending.call, pending.started)
        if result is None:
            if not self._tools.is_repeatable(pending.call.name):
                await self._written(lambda: self._transcript.mark_started(number, index))
            result = await self._tools.run(pending.call, f"{self._profile.researcher}/{number}/{index}")
        found, lap, last = result, self._lap(), index == len(turn.calls) - 1
        await self._written(lambda: self._transcript.store_result(number, index, found, lap, last=last))

    def _not_now(self, turn: OpenTurn, call: ToolCall, started: bool) -> ToolResult | None:
        """The result of a call that must not run: it costs now, or was cut short and may have had effects."""
        if started and not self._tools.is_repeatable(call.name):
            return ToolResult.refused(
                "interrupted", "the researcher was restarted while this ran; it may have had effects"
            )
        stopping = turn.ending or (END_STOPPED if self._ctx.stopping.is_set() else "")
        if stopping and not self._tools.is_free(call.name):
            return ToolResult.refused("ending", f"only free tools are left: {stopping}")
        return None

    async def _copy_posts(self) -> None:
        """Renew the copy of the forum in the workspace."""
        try:
            await self._ctx.forum.sync(self._profile.researcher, self._profile.workspace)
        except self._failures as error:
            log.warning("%s: the forum was not copied: %s", self._profile.researcher, error)

    async def _charge(self) -> None:
        """Charge the wall time of finished turns."""
        for turn, wall_ms in self._transcript.uncharged():
            try:
                await self._account.charge_wall(f"{self._profile.researcher}/{turn}/wall", wall_ms)
            except self._failures as error:
                log.warning("%s: wall time of turn %d is charged later: %s", self._profile.researcher, turn, error)
                return
            self._transcript.mark_charged(turn)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._ctx.stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True
