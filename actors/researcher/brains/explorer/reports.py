"""What an explorer tells the others: hypotheses, results by record id, failures, insights.

Each post is made once: its title names what it is about, and a title that was used is not used again. Numbers in
a text are the explorer's own reading; the evaluator's figures come with the record id.
"""

from __future__ import annotations

from collections.abc import Iterator

from actors.researcher.brains.explorer.memory import Memory, Trial
from actors.researcher.brains.explorer.values import BlockValues
from actors.researcher.types import ToolCall
from forum_actor.posts import MAX_BODY, MAX_TITLE
from gpu_pool.weak_to_strong.recipes import describe

INSIGHT_EVERY = 2
"""Scored trials between two insights."""
ERROR_CHARS = 1500


def hypothesis(direction: str, blocks: list[str]) -> ToolCall:
    """The first post: where this researcher will look."""
    body = f"Direction: {direction}\nI start from these building blocks: {', '.join(blocks)}."
    return _post("hypothesis", f"Where I will look: {direction}", body)


def reports(memory: Memory) -> list[ToolCall]:
    """Posts on everything that was learned and not told yet."""
    found = [call for trial in memory.trials.values() for call in _of_trial(trial)]
    found.extend(_insights(memory))
    return [call for call in found if call.args["title"] not in memory.titles]


def farewell(memory: Memory) -> list[ToolCall]:
    """The last posts: what is untold, and what all of it amounts to."""
    last = _post("insight", "What I learned", _lessons(memory))
    return [call for call in [*reports(memory), last] if call.args["title"] not in memory.titles]


def _of_trial(trial: Trial) -> Iterator[ToolCall]:
    if trial.failed:
        error = str(trial.pilots[-1].get("error", ""))[:ERROR_CHARS]
        yield _post("error", f"Fails in a pilot: {trial.name}", f"{describe(trial.recipe)}\n{error}")
    for tier, answer in (("DEV", trial.dev), ("BOARD", trial.board)):
        if answer is None:
            continue
        record, snapshot = answer.get("record_id"), answer.get("snapshot")
        body = f"{describe(trial.recipe)}\n{_pilot_words(trial)}"
        if tier == "DEV" and answer.get("failed_seeds") and answer.get("error"):
            body += f"\n{answer['failed_seeds']} of {answer.get('seeds', '?')} seeds failed: {answer['error']}"[:800]
        if record:
            yield _post("result", f"{tier}: {trial.name}", body, [str(record)], snapshot)


def _pilot_words(trial: Trial) -> str:
    good = [pilot for pilot in trial.pilots if pilot.get("status") == "ok"]
    if not good:
        return "No pilot."
    last = good[-1]
    names = ("agree_weak", "agree_prior", "prior_sides_with_student", "balance", "train_seconds")
    return "Pilot: " + ", ".join(f"{name} {last.get(name)}" for name in names)


def _insights(memory: Memory) -> Iterator[ToolCall]:
    scored = sum(trial.dev is not None for trial in memory.trials.values())
    if scored >= INSIGHT_EVERY:
        count = scored // INSIGHT_EVERY * INSIGHT_EVERY
        yield _post("insight", f"Building blocks after {count} scores", _lessons(memory))


def _lessons(memory: Memory) -> str:
    ranking = BlockValues(memory.scores()).ranking()
    if not ranking:
        return "Nothing was scored."
    best = ", ".join(f"{name} {mean:+.2f} (sd {sd:.2f})" for name, mean, sd in ranking[:6])
    worst = ", ".join(f"{name} {mean:+.2f}" for name, mean, _ in ranking[-3:])
    scored = [trial for trial in memory.trials.values() if trial.dev is not None]
    failed = [trial.name for trial in memory.trials.values() if trial.failed]
    lines = [
        f"Estimated effect of building blocks on PGR, from {len(memory.scores())} scores: {best}.",
        f"Least: {worst}.",
    ]
    if scored:
        top = max(scored, key=lambda trial: trial.pgr if trial.pgr is not None else -1.0)
        lines.append(f"My best: {top.name}: {describe(top.recipe)}.")
    if failed:
        lines.append(f"Failed: {', '.join(failed[:5])}.")
    return "\n".join(lines)


def _post(
    kind: str, title: str, body: str, records: list[str] | None = None, snapshot: object | None = None
) -> ToolCall:
    args = {"kind": kind, "title": title[:MAX_TITLE], "body": body[:MAX_BODY]}
    extra = {"record_ids": records or [], "snapshot": str(snapshot)} if snapshot else {}
    return ToolCall("forum_post", {**args, **extra}, "tell the others")
