"""The offline brain: a search over building blocks, by direction, with what the forum knows. No language model.

Each decision is a function of the observation and a seed: the explorer rebuilds its memory from its history and
takes the first step of this list that applies. 1. Say where it will look, ask what others hold and have reached.
2. After a score: look at the board again. Always: tell what is untold, fetch the code of results that are new. 3.
Enter the board with its best method when that is better than what is known, or while there is still time to. 4.
After some good pilots: submit the most promising method to DEV. 5. Pilot the recipe that was written last. 6.
Propose a recipe, write its method file, claim its idea. It ends when answers, time or refusals leave nothing to
do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from actors.researcher.brains.explorer.directions import Leaning
from actors.researcher.brains.explorer.memory import Memory, Trial, path_of
from actors.researcher.brains.explorer.pace import Pace
from actors.researcher.brains.explorer.proposals import propose
from actors.researcher.brains.explorer.reports import farewell, hypothesis, reports
from actors.researcher.brains.explorer.space import features, idea, method_file
from actors.researcher.brains.explorer.values import BASE_MEAN, BlockValues, promise
from actors.researcher.types import FINISH, Decision, Observation, ToolCall
from cluster.config import CampaignConfig

WORTHY = 0.05
"""PGR above vanilla, by DEV, from which a method is worth an answer of the board."""
SLACK = 0.05
"""A method this much below the best that is known may still be better: a DEV score is noisy."""
MAX_REFUSALS = 3
WAIT_S = 3.0
MAX_SUBMIT_REFUSALS = 2
FETCH_LIMIT = 3
MIN_PILOT_S = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What an explorer is made with."""

    stream: str
    """Names the stream of random numbers."""
    pilots_per_submission: int
    pilot_gpus: float
    pilot_seconds: float


class Explorer:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @classmethod
    def of(cls, config: CampaignConfig, researcher: str) -> Explorer:
        """The explorer of a researcher; with `identical` all get one stream."""
        return cls(
            Settings(
                stream=f"{config.seed}/{'identical' if config.researchers.identical else researcher}",
                pilots_per_submission=config.brain.pilots_per_submission,
                pilot_gpus=config.runs.pilot_gpus,
                pilot_seconds=config.runs.pilot_seconds,
            )
        )

    async def decide(self, observation: Observation) -> Decision:
        """The calls of this turn."""
        return Decision(tuple(self._calls(observation)))

    def _calls(self, observation: Observation) -> list[ToolCall]:
        memory = Memory.of(observation.history, observation.researcher, str(observation.task.get("domain", "")))
        for post in observation.seen.posts:
            memory.hear(post)
        social = "forum_post" in observation.tools
        if observation.seen.ending:
            return farewell(memory) if social else []
        if not observation.history:
            return _open(observation.direction, social)
        calls = [*(reports(memory) if social else []), *_fetches(memory)]
        if _has_scored(observation):
            return [*calls, ToolCall("leaderboard", {}, "where the board stands")]
        act = self._act(memory, observation, social)
        if act[-1].name == FINISH and social:
            calls = [*farewell(memory), *_fetches(memory)]
        return [*calls, *act]

    def _act(self, memory: Memory, observation: Observation, social: bool) -> list[ToolCall]:
        pace = Pace.of(observation)
        reason = _no_more(memory, pace)
        if reason:
            return [ToolCall(FINISH, {"reason": reason})]
        if not memory.rested:
            return [ToolCall("wait", {"seconds": WAIT_S, "until": "time"}, "others hold what is left")]
        entry = _board_entry(memory, pace)
        if entry is not None:
            return [_submission(entry, "board")]
        chosen = self._submission_to_dev(memory, pace)
        if chosen is not None:
            return [_submission(chosen, "dev")]
        waiting = next((t for t in memory.trials.values() if t.claim in ("held", "none") and _untried(t)), None)
        if waiting is None and not social:
            waiting = next((t for t in memory.trials.values() if _untried(t)), None)
        if waiting is not None:
            return [self._pilot(waiting, pace)]
        rng = random.Random(f"{self._settings.stream}/{observation.turn}")
        proposal = propose(Leaning.of(observation.direction), memory, rng)
        path, title = path_of(proposal.recipe), idea(proposal.recipe)
        content = {"path": path, "content": method_file(proposal.recipe)}
        write = ToolCall("write_file", content, f"from {proposal.origin}")
        claim = ToolCall("forum_claim", {"idea": title, "body": f"From {proposal.origin}."}, "work on it alone")
        return [write, claim] if social else [write]

    def _submission_to_dev(self, memory: Memory, pace: Pace) -> Trial | None:
        """The most promising trial that was piloted well and not scored, once there are enough pilots."""
        ready = [t for t in memory.trials.values() if t.pilots and not t.failed and "dev" not in t.submitted]
        stuck = bool(memory.refused)
        if not ready or not pace.can_score_dev or (memory.pilots_since_dev < self._wanted(pace) and not stuck):
            return None
        if pace.answers == 1 and _worthy(memory) is not None:
            return None
        values = BlockValues(memory.scores())
        return max(ready, key=lambda trial: values.mean(features(trial.recipe)) + promise(trial.pilots[-1]))

    def _wanted(self, pace: Pace) -> int:
        """Pilots before a submission: the configured number, fewer when time runs out."""
        return 1 if pace.hurry else self._settings.pilots_per_submission

    def _pilot(self, trial: Trial, pace: Pace) -> ToolCall:
        seconds = self._settings.pilot_seconds
        if pace.gpu_seconds is not None:
            affordable = pace.gpu_seconds / self._settings.pilot_gpus
            seconds = min(seconds, max(MIN_PILOT_S, affordable))
        args: dict[str, Any] = {"path": trial.path, "seconds": round(seconds, 2)}
        return ToolCall("run_pilot", args, idea(trial.recipe))


def _open(direction: str, social: bool) -> list[ToolCall]:
    calls = [ToolCall("leaderboard", {}, "what there is")]
    if social:
        blocks = list(dict.fromkeys(f"{name}={value}" for name, value in Leaning.of(direction).blocks))
        calls += [ToolCall("forum_claims", {}, "what others do"), hypothesis(direction, blocks)]
    return calls


def _untried(trial: Trial) -> bool:
    return not trial.pilots and len(trial.refusals) < 2 and not trial.submitted


def _submission(trial: Trial, tier: str) -> ToolCall:
    return ToolCall("submit", {"path": trial.path, "name": trial.name, "tier": tier}, idea(trial.recipe))


def _fetches(memory: Memory) -> list[ToolCall]:
    return [
        ToolCall("code_fetch", {"snapshot": heard.snapshot}, f"a result of {heard.author}")
        for heard in memory.to_fetch(FETCH_LIMIT)
    ]


def _has_scored(observation: Observation) -> bool:
    return any(done.call.name == "submit" for done in observation.history[-1].done)


def _no_more(memory: Memory, pace: Pace) -> str:
    """Why there is nothing left to do, or ""."""
    if pace.answers == 0:
        return "all answers are used"
    if memory.submit_refusals >= MAX_SUBMIT_REFUSALS:
        return f"submissions are refused: {memory.refused[-1] if memory.refused else 'no reason'}"
    if len(memory.refused) >= MAX_REFUSALS:
        return f"refused {MAX_REFUSALS} times in a row: {memory.refused[-1]}"
    return "no time for another score" if not pace.can_score_dev and not pace.can_score_board else ""


def _worthy(memory: Memory) -> Trial | None:
    """The best own method, when it is worth an answer of the board and has not been there."""
    scored = [t for t in memory.trials.values() if t.pgr is not None and "board" not in t.submitted]
    if not scored:
        return None
    best = max(scored, key=lambda trial: trial.pgr if trial.pgr is not None else -1.0)
    vanilla = memory.vanilla()
    floor = (BASE_MEAN if vanilla is None else vanilla) + WORTHY
    entered = [t.pgr for t in memory.trials.values() if t.board is not None and t.pgr is not None]
    floor = max([floor, memory.frontier() - SLACK, *entered])
    return best if best.pgr is not None and best.pgr > floor else None


def _board_entry(memory: Memory, pace: Pace) -> Trial | None:
    """The method to enter now: one better than all that is known, or at the last chance the best worthy one."""
    best = _worthy(memory)
    if best is None or best.pgr is None or not pace.can_score_board:
        return None
    last_chance = pace.answers == 1 or pace.hurry
    return best if last_chance or best.pgr > memory.frontier() else None
