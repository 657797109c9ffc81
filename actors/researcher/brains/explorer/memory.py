"""What an explorer knows, rebuilt from its history before every decision: its trials, and what others reported.

Text of others is data: of a post only the evaluator's figures, the snapshot and a digest are used, of a fetched
file only a validated recipe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from actors.researcher.brains.explorer.pace import own_left
from actors.researcher.brains.explorer.space import digest, features, idea, read_recipe
from actors.researcher.brains.explorer.values import Score
from actors.researcher.types import ToolOutcome, Turn
from cluster.names import CAMPAIGN
from gpu_pool.weak_to_strong.recipes import VANILLA, Recipe

FOLDER = "methods"
FAILED_PGR = -0.2
"""What a method that failed in a pilot counts as: worse than vanilla, not impossible."""
WORST_PGR = -0.5
"""Below this a score says no more: where the gap is small, a useless student may have any negative PGR."""
FAILED_SD, SCORE_SD, BASELINE_SD = 0.2, 0.12, 0.06
BASELINES = {"vanilla": VANILLA, "confident": Recipe(selection="confident")}
"""Baselines that are points of the recipe space."""
MAX_CROWDED = 10
"""Refusals in a row for other people's reservations; the next one counts as a refusal."""
NOBODYS_FAULT = ("lost", "cancelled")
"""Ends of a pilot that say nothing about its method."""
_DIGEST = re.compile(r"\[([0-9a-f]{10})\]")


@dataclass
class Trial:
    """One recipe that this explorer wrote down."""

    recipe: Recipe
    path: str
    claim: str = ""
    """"" before an answer, `held`, `refused` or `none` (no forum)."""
    pilots: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    dev: dict[str, Any] | None = None
    board: dict[str, Any] | None = None
    submitted: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The method's name, at most 60 characters: its idea and its digest."""
        return f"{idea(self.recipe)[:47]} [{digest(self.recipe)}]"

    @property
    def failed(self) -> bool:
        """True if its last pilot did not give a student."""
        return bool(self.pilots) and self.pilots[-1].get("status") != "ok"

    @property
    def pgr(self) -> float | None:
        """The PGR of its DEV answer."""
        return number(self.dev, "pgr")


@dataclass
class Heard:
    """A result of another researcher: the evaluator's PGR, and its recipe once the code was fetched."""

    snapshot: str
    pgr: float
    tier: str
    author: str
    recipe: Recipe | None = None
    fetched: bool = False


@dataclass
class Memory:
    """All of it, as seen by `researcher`, who works on `domain`."""

    researcher: str = ""
    domain: str = ""
    budget: dict[str, Any] = field(default_factory=dict)
    """The balance at the turn that was recalled last."""
    trials: dict[str, Trial] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    avoided: set[str] = field(default_factory=set)
    """Digests that others have scored or seen fail."""
    taken: set[str] = field(default_factory=set)
    """Ideas that others claimed."""
    titles: set[str] = field(default_factory=set)
    """Titles of own posts, refused ones too: nothing is posted twice."""
    board: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Reasons of the refusals since the last pilot or submission that went through."""
    submit_refusals: int = 0
    """Refused submissions since the last one that went through."""
    pilots_since_dev: int = 0
    """Pilots that gave a student since the last DEV submission."""
    crowded: int = 0
    """How often since the last success a call was refused because others hold what the campaign has left."""
    rested: bool = True
    """True if the explorer has waited since."""
    vanilla_pgr: float | None = None

    @classmethod
    def of(cls, history: Iterable[Turn], researcher: str, domain: str = "") -> Memory:
        """The memory of a history."""
        memory = cls(researcher, domain)
        for turn in history:
            memory.budget = turn.seen.budget
            for post in turn.seen.posts:
                memory.hear(post)
            for done in turn.done:
                memory.recall(done)
        return memory

    def hear(self, post: dict[str, Any]) -> None:
        """Take note of a post of another researcher."""
        if post.get("kind") == "claim":
            self.taken.add(str(post.get("idea", "")))
        if post.get("kind") in ("result", "error"):
            self.avoided.update(_DIGEST.findall(str(post.get("title", ""))))
        snapshot, records = post.get("snapshot"), post.get("records") or []
        author = str(post.get("author", ""))
        scores = [r for r in records if r.get("researcher", author) == author and number(r, "pgr") is not None]
        if post.get("kind") == "result" and snapshot and scores and snapshot not in self.heard:
            best = max(scores, key=lambda record: float(record["pgr"]))
            tier = str(best.get("tier", "dev"))
            self.heard[snapshot] = Heard(snapshot, float(best["pgr"]), tier, author)

    def recall(self, done: ToolOutcome) -> None:
        """Take note of an own call and its result."""
        handler = _HANDLERS.get(done.call.name)
        if handler is not None:
            handler(self, done)

    def crowded_out(self, done: ToolOutcome) -> bool:
        """Return True if a refusal only says that others hold the campaign's money for now; count such refusals.

        It does when the researcher's own cap has room for what was asked.
        """
        detail = done.result.content
        asked, room = number(detail, "asked"), own_left(self.budget, str(detail.get("dimension", "")))
        over = done.result.reason == "over_budget" and asked is not None and (room is None or asked <= room)
        crowded = over and self.crowded < MAX_CROWDED
        self.crowded += crowded
        self.rested = not crowded
        return crowded

    def went_through(self) -> None:
        """A pilot or a submission was carried out: earlier refusals say nothing any more."""
        self.refused.clear()
        self.crowded = 0

    def trial(self, done: ToolOutcome) -> Trial | None:
        """The trial that a call is about."""
        return self.trials.get(str(done.call.args.get("path", "")))

    def known(self, recipe: Recipe) -> bool:
        """Return True if the recipe was tried here, or scored or seen to fail elsewhere."""
        return digest(recipe) in self.avoided or path_of(recipe) in self.trials

    def scores(self) -> list[Score]:
        """Everything that says what building blocks are worth."""
        found = [] if self.vanilla_pgr is None else [Score(features(VANILLA), self.vanilla_pgr, BASELINE_SD)]
        for row in self.rows(of_campaign=True):
            recipe = BASELINES.get(str(row.get("method")))
            if recipe is not None:
                found.append(Score(features(recipe), float(row["pgr"]), BASELINE_SD))
        for trial in self.trials.values():
            if trial.pgr is not None:
                found.append(Score(features(trial.recipe), max(WORST_PGR, trial.pgr), SCORE_SD))
            elif trial.failed:
                found.append(Score(features(trial.recipe), FAILED_PGR, FAILED_SD))
        for heard in self.heard.values():
            if heard.recipe is not None:
                found.append(Score(features(heard.recipe), max(WORST_PGR, heard.pgr), SCORE_SD))
        return found

    def parents(self) -> list[tuple[Recipe, float]]:
        """Scored recipes, own and others', best first."""
        own = [(trial.recipe, trial.pgr) for trial in self.trials.values() if trial.pgr is not None]
        foreign = [(heard.recipe, heard.pgr) for heard in self.heard.values() if heard.recipe is not None]
        return sorted([*own, *foreign], key=lambda pair: -pair[1])

    def to_fetch(self, limit: int) -> list[Heard]:
        """The best results of others whose code was not fetched."""
        waiting = [heard for heard in self.heard.values() if not heard.fetched]
        return sorted(waiting, key=lambda heard: -heard.pgr)[:limit]

    def rows(self, *, of_campaign: bool) -> list[dict[str, Any]]:
        """Rows of the leaderboard with a PGR on the researched domain: the campaign's own baselines, or all others."""
        shown = [row for row in self.board if number(row, "pgr") is not None]
        here = [row for row in shown if not self.domain or row.get("domain", self.domain) == self.domain]
        return [row for row in here if (row.get("researcher") == CAMPAIGN) is of_campaign]

    def frontier(self) -> float:
        """The best PGR that others reported or that stands on the board; minus infinity when there is none."""
        rows = [float(row["pgr"]) for row in self.rows(of_campaign=False)]
        return max([*rows, *(heard.pgr for heard in self.heard.values())], default=-math.inf)

    def vanilla(self) -> float | None:
        """The PGR of the plain method: from the last DEV answer, else from the board."""
        rows = [float(row["pgr"]) for row in self.rows(of_campaign=True) if row.get("method") == "vanilla"]
        return self.vanilla_pgr if self.vanilla_pgr is not None else next(iter(rows), None)


def path_of(recipe: Recipe) -> str:
    """Where the method file of a recipe stands in the workspace."""
    return f"{FOLDER}/{digest(recipe)}.py"


def number(data: dict[str, Any] | None, name: str) -> float | None:
    """A finite number in plain data, or `None`."""
    value = (data or {}).get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good and value is not None else None


def _write(memory: Memory, done: ToolOutcome) -> None:
    recipe = read_recipe(str(done.call.args.get("content", "")))
    path = str(done.call.args.get("path", ""))
    if done.result.ok and recipe is not None and path not in memory.trials:
        memory.trials[path] = Trial(recipe, path)


def _claim(memory: Memory, done: ToolOutcome) -> None:
    title = str(done.call.args.get("idea", ""))
    for trial in memory.trials.values():
        if not trial.claim and idea(trial.recipe) == title:
            trial.claim = "held" if done.result.ok else "refused" if done.result.reason == "claimed" else "none"
    if done.result.reason == "claimed":
        memory.taken.add(title)


def _pilot(memory: Memory, done: ToolOutcome) -> None:
    trial = memory.trial(done)
    if trial is None:
        return
    if done.result.ok and done.result.content.get("status") in NOBODYS_FAULT:
        trial.refusals.append("lost")
    elif done.result.ok:
        trial.pilots.append(done.result.content)
        memory.pilots_since_dev += not trial.failed
        memory.went_through()
    elif not memory.crowded_out(done):
        trial.refusals.append(done.result.reason)
        memory.refused.append(done.result.reason)


def _submit(memory: Memory, done: ToolOutcome) -> None:
    trial = memory.trial(done)
    if trial is None:
        return
    tier = str(done.call.args.get("tier", "dev"))
    if memory.crowded_out(done):
        return
    trial.submitted.add(tier)
    memory.pilots_since_dev = 0 if tier == "dev" else memory.pilots_since_dev
    if not done.result.ok:
        memory.refused.append(done.result.reason)
        memory.submit_refusals += 1
        return
    memory.went_through()
    memory.submit_refusals = 0
    if tier == "board":
        trial.board = done.result.content
    else:
        trial.dev = done.result.content
        memory.vanilla_pgr = number(trial.dev, "vanilla_pgr") or memory.vanilla_pgr


def _fetch(memory: Memory, done: ToolOutcome) -> None:
    heard = memory.heard.get(str(done.call.args.get("snapshot", "")))
    if heard is not None:
        heard.fetched = True
        files = done.result.content.get("files") or {}
        heard.recipe = read_recipe(str(files.get("method.py", "")))


def _wait(memory: Memory, done: ToolOutcome) -> None:
    memory.rested = True


def _post(memory: Memory, done: ToolOutcome) -> None:
    memory.titles.add(str(done.call.args.get("title", "")))


def _board(memory: Memory, done: ToolOutcome) -> None:
    if done.result.ok:
        memory.board = list(done.result.content.get("rows") or [])


def _claims(memory: Memory, done: ToolOutcome) -> None:
    claims = done.result.content.get("claims") or []
    memory.taken.update(str(claim.get("idea", "")) for claim in claims if claim.get("author") != memory.researcher)


_HANDLERS: dict[str, Callable[[Memory, ToolOutcome], None]] = {
    "write_file": _write,
    "forum_claim": _claim,
    "forum_claims": _claims,
    "forum_post": _post,
    "run_pilot": _pilot,
    "submit": _submit,
    "code_fetch": _fetch,
    "wait": _wait,
    "leaderboard": _board,
}
