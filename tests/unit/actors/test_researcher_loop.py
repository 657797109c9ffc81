from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from actors.researcher.loop import CHARGE_AFTER_S
from actors.researcher.types import Decision, Observation, ToolCall, TurnInput
from cluster.errors import AarError, Reason, RefusedError
from cluster.journal import verify_chain
from cluster.money import Amounts, Balance, Caps
from cluster.remote import UnreachableError
from cluster.store import open_readonly
from tests.unit.actors.researcher_world import CAPS, NINE, Crash, Fuse, Offices, World, config, watched

METHOD = "def train(run):\n    return None\n"
EDIT = "str_replace_based_edit_tool"
SCRIPT: list[list[ToolCall]] = [
    [
        ToolCall("write_file", {"path": "m.py", "content": METHOD}),
        ToolCall("forum_claim", {"idea": "an idea"}),
        ToolCall(EDIT, {"command": "insert", "path": "m.py", "insert_line": 0, "insert_text": "# a note"}),
    ],
    [ToolCall("run_pilot", {"path": "m.py", "items": 64}), ToolCall("read_file", {"path": "missing"})],
    [ToolCall("submit", {"path": "m.py", "name": "first"})],
    [ToolCall("forum_post", {"kind": "insight", "title": "what I saw"}), ToolCall("budget")],
    [ToolCall("finish", {"reason": "enough"})],
]


class Scripted:
    """Plays a list of turns; a function of the observation alone, as every brain must be."""

    def __init__(self, script: list[list[ToolCall]]) -> None:
        self.script = script
        self.asked: list[Observation] = []

    async def decide(self, observation: Observation) -> Decision:
        self.asked.append(observation)
        return Decision(tuple(self._calls(observation)))

    def _calls(self, observation: Observation) -> list[ToolCall]:
        if observation.seen.ending:
            return [ToolCall("forum_post", {"kind": "insight", "title": "the end"}), ToolCall("wait", {"seconds": 1})]
        return self.script[observation.turn] if observation.turn < len(self.script) else [ToolCall("budget")]


def _outcome(world: World, summary: dict[str, Any]) -> dict[str, Any]:
    calls = [
        (turn.number, d.call, d.result.ok, d.result.reason) for turn in world.transcript.history for d in turn.done
    ]
    effects = sorted(name for name in world.offices.effects if "/wall" not in name)
    charged = sorted(name for name in world.offices.effects if "/wall" in name)
    return {
        "summary": {k: v for k, v in summary.items() if k != "wall_ms"},
        "calls": calls,
        "effects": effects,
        "wall_charges": charged,
        "posts": [(post["author"], post["title"]) for post in world.offices.posts],
        "answers": world.offices.spent["answers"],
        "method": world.ctx.workspace.read_text("m.py"),
    }


def test_a_script_runs_to_its_end_and_every_turn_is_journalled(tmp_path: Path) -> None:
    world = World(tmp_path, brain=Scripted(SCRIPT))
    summary = world.run()
    assert summary["ended"] == "the brain is done"
    assert (summary["turns"], summary["pilots"], summary["submissions"], summary["posts"]) == (5, 1, 1, 2)
    assert summary["refused"] == 1
    assert summary["best"] == {"name": "first", "tier": "dev", "pgr": 0.4, "record_id": summary["best"]["record_id"]}
    world.close()
    db = open_readonly(tmp_path / world.researcher / "researcher.db")
    report = verify_chain(db)
    kinds = [row["kind"] for row in db.execute("SELECT kind FROM journal ORDER BY seq")]
    db.close()
    assert report.broken is None
    assert kinds == ["started", *["turn"] * 5, "ended"]


def test_a_second_run_only_answers(tmp_path: Path) -> None:
    world = World(tmp_path, brain=Scripted(SCRIPT))
    first = world.run()
    effects = list(world.offices.effects)
    assert world.run() == first
    assert world.offices.effects == effects


def test_two_calls_of_run_share_one_life(tmp_path: Path) -> None:
    async def both() -> list[dict[str, Any]]:
        researcher = World(tmp_path, brain=Scripted(SCRIPT)).start()
        return list(await asyncio.gather(researcher.run(), researcher.run()))

    first, second = asyncio.run(both())
    assert first == second
    assert first["turns"] == 5


def _count_points(tmp_path: Path) -> tuple[int, dict[str, Any]]:
    fuse = Fuse()
    world = World(tmp_path, brain=Scripted(SCRIPT))
    summary = asyncio.run(world.start(fuse).run())
    outcome = _outcome(world, summary)
    world.close()
    return fuse.count, outcome


def test_killed_at_every_point_and_resumed_the_outcome_is_the_same(tmp_path: Path) -> None:
    points, expected = _count_points(tmp_path / "whole")
    assert points > 60
    assert expected["method"] == f"# a note\n{METHOD}"
    for at in range(1, points + 1):
        world = World(tmp_path / str(at), brain=Scripted(SCRIPT))
        with pytest.raises(Crash):
            asyncio.run(world.start(Fuse(at)).run())
        open_turn = world.transcript.open_turn()
        known = set() if open_turn is None else {p.index for p in open_turn.calls if p.result is not None}
        made = len(world.offices.calls)
        summary = asyncio.run(world.start().run())
        assert _outcome(world, summary) == expected, f"killed at point {at}"
        if open_turn is not None:
            keys = {f"{world.researcher}/{open_turn.number}/{index}" for index in known}
            repeated = {key.removesuffix("/push") for _, key in world.offices.calls[made:]} & keys
            assert not repeated, f"killed at point {at}: {repeated} ran although the result was stored"
        assert len(world.offices.effects) == len(set(world.offices.effects))
        world.close()


def is_decided(world: World) -> bool:
    """Whether a turn after the first stands decided and unfinished."""
    turn = None if world.store is None else world.transcript.open_turn()
    return turn is not None and turn.decided and turn.number > 0


def test_an_unfinished_turn_keeps_its_decision(tmp_path: Path) -> None:
    brain = Scripted(SCRIPT)
    world = World(tmp_path, brain=brain)
    points = 0
    while not is_decided(world):
        points += 1
        try:
            asyncio.run(world.start(Fuse(points)).run())
        except Crash:
            continue
    decided = [observation.turn for observation in brain.asked]
    brain.asked.clear()
    asyncio.run(world.start().run())
    assert brain.asked[0].turn == max(decided) + 1


def test_an_exhausted_account_ends_with_one_last_free_turn(tmp_path: Path) -> None:
    script = [[ToolCall("write_file", {"path": "m.py", "content": METHOD})]]
    script += [[ToolCall("run_pilot", {"path": "m.py", "items": 64, "gpus": 1.0, "seconds": 40})] for _ in range(40)]
    world = World(tmp_path, brain=Scripted(script), caps={**CAPS, "gpu_ms": 40_000})
    world.offices.spent["gpu_ms"] = 39_999
    world.offices.caps["gpu_ms"] = 39_999
    summary = world.run()
    assert summary["ended"] == "the budget is exhausted: no GPU time left"
    last = world.transcript.history[-1]
    assert [(d.call.name, d.result.ok, d.result.reason) for d in last.done] == [
        ("forum_post", True, ""),
        ("wait", False, "ending"),
    ]
    assert world.offices.posts[-1]["title"] == "the end"


def test_wall_time_is_charged_once_per_turn_and_never_above_its_cap(tmp_path: Path) -> None:
    world = World(tmp_path, brain=Scripted([[ToolCall("wait", {"seconds": 0.05})]] * 3), caps={**CAPS, "wall_ms": 120})
    summary = world.run()
    assert summary["ended"].startswith("the budget is exhausted: no wall time")
    assert world.offices.spent["wall_ms"] == 120
    charged = [name for name in world.offices.effects if name.startswith("spend:")]
    assert len(charged) == len(set(charged))


WAITS = [[ToolCall("wait", {"seconds": 0.6, "until": "time"})]] * 5


def test_the_researchers_own_wall_time_ends_it_as_a_budget_that_is_exhausted(tmp_path: Path) -> None:
    settings = config(budget={**NINE.budget.model_dump(), "researcher": {"wall_hours": 1 / 3600}})
    world = World(tmp_path, settings, Scripted(WAITS), caps={**CAPS, "wall_ms": 1000})
    summary = world.run()
    assert summary["ended"] == "the budget is exhausted: no wall time left"
    assert (summary["turns"], world.offices.spent["wall_ms"]) == (3, 1000)


def test_wall_time_that_is_shared_is_charged_before_a_turn_begins(tmp_path: Path) -> None:
    budget = {**NINE.budget.model_dump(), "campaign": {"usd": 5, "wall_hours": 1 / 3600}, "researcher": {}}
    world = World(tmp_path, config(budget=budget), Scripted(WAITS), caps={**CAPS, "wall_ms": 1000})
    summary = world.run()
    assert summary["ended"] == "the budget is exhausted: no wall time left"
    assert (summary["turns"], world.offices.spent["wall_ms"]) == (3, 1000)


def test_wall_time_that_could_not_be_charged_at_the_end_is_charged_when_it_is_run_again(tmp_path: Path) -> None:
    class Deaf(Offices):
        deaf = True

        async def charge(self, key: str, account: str, amounts: Amounts, note: str) -> Amounts:
            if self.deaf:
                raise UnreachableError("actor scheduler did not answer charge")
            return await super().charge(key, account, amounts, note)

    offices = Deaf(tmp_path, dict(CAPS))
    world = World(tmp_path, brain=Scripted([[ToolCall("wait", {"seconds": 0.05})]]), offices=offices, max_turns=2)
    wall_ms = world.run()["wall_ms"]
    assert (wall_ms >= 50, offices.spent["wall_ms"]) == (True, 0)
    offices.deaf = False
    world.run()
    assert offices.spent["wall_ms"] == wall_ms


def test_turns_are_limited(tmp_path: Path) -> None:
    world = World(tmp_path, brain=Scripted([[ToolCall("budget")]]), max_turns=3)
    summary = world.run()
    assert (summary["ended"], summary["turns"]) == ("all turns are used", 4)


def test_a_stop_ends_a_wait_at_once_and_survives_a_restart(tmp_path: Path) -> None:
    world = World(
        tmp_path, brain=Scripted([[ToolCall("wait", {"seconds": 200}), ToolCall("run_pilot", {"path": "m"})]])
    )

    async def stopped() -> dict[str, Any]:
        researcher = world.start()
        running = asyncio.create_task(researcher.run())
        while "wait" not in researcher.status()["last_action"]:
            await asyncio.sleep(0.005)
        await researcher.stop("enough")
        return await asyncio.wait_for(running, 5)

    summary = asyncio.run(stopped())
    assert summary["ended"] == "stopped by the director"
    assert [d.result.reason for d in world.transcript.history[0].done] == ["", "ending"]

    async def stop_only(researcher: Any) -> None:
        await researcher.stop()

    other = World(tmp_path / "other", brain=Scripted(SCRIPT))
    asyncio.run(stop_only(other.start()))
    assert asyncio.run(other.start().run())["ended"] == "stopped by the director"


def test_a_command_that_was_cut_short_is_not_run_again(tmp_path: Path) -> None:
    world = World(tmp_path, brain=Scripted([[ToolCall("bash", {"command": "date >> log"})], [ToolCall("finish")]]))
    world.start()
    seen = world.transcript
    seen.decide(seen.observe(0, TurnInput(), 0), Decision((ToolCall("bash", {"command": "date >> log"}),)), 0)
    seen.mark_started(0, 0)
    asyncio.run(world.start().run())
    assert world.transcript.history[0].done[0].result.reason == "interrupted"


class Moody(Scripted):
    """Fails before each answer as often as told."""

    def __init__(self, script: list[list[ToolCall]], failures: int) -> None:
        super().__init__(script)
        self.failures = failures

    async def decide(self, observation: Observation) -> Decision:
        if self.failures:
            self.failures -= 1
            raise RefusedError(Reason.NO_MATCH, "try again") if self.failures % 2 else AarError("no answer")
        return await super().decide(observation)


def test_a_brain_that_fails_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.researcher.retry_policy.BACKOFF_S", 0.0001)
    assert World(tmp_path / "a", brain=Moody(SCRIPT, 4)).run()["turns"] == 5
    assert World(tmp_path / "b", brain=Moody(SCRIPT, 99)).run()["ended"] == "the brain could not decide: try again"


def test_a_brain_that_gives_up_leaves_its_notebook_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.researcher.retry_policy.BACKOFF_S", 0.0001)

    class Lost(Scripted):
        async def decide(self, observation: Observation) -> Decision:
            if observation.turn:
                raise RefusedError(Reason.NOT_RECORDED, "the recording ends here")
            return await super().decide(observation)

    note = ToolCall("write_file", {"path": "notebook.md", "content": "long " * 4000 + "The prior is right."})
    world = World(tmp_path, brain=Lost([[note]]))
    assert world.run()["ended"] == "the brain could not decide: the recording ends here"
    (post,) = world.offices.posts
    assert (post["title"], post["body"].endswith("The prior is right.")) == ("My notebook at the end", True)
    assert "the recording ends here" in post["body"]


class Outage(Offices):
    """The scheduler does not answer for a while, at the start and later."""

    left = 40
    absent = 40

    async def open_account(self, key: str, account: str, parent: str | None, caps: Caps) -> Balance:
        if self.absent:
            self.absent -= 1
            raise UnreachableError("actor scheduler did not answer open_account")
        return await super().open_account(key, account, parent, caps)

    async def balance(self, account: str) -> Balance:
        if self.left and self.spent["wall_ms"]:
            self.left -= 1
            raise UnreachableError("actor scheduler did not answer balance")
        return await super().balance(account)

    async def charge(self, key: str, account: str, amounts: Amounts, note: str) -> Amounts:
        if self.left and self.spent["wall_ms"]:
            raise UnreachableError("actor scheduler did not answer charge")
        return await super().charge(key, account, amounts, note)


def test_offices_that_are_gone_for_long_are_waited_for_and_the_pause_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.researcher.retry_policy.BACKOFF_S", 0.0001)
    monkeypatch.setattr("actors.researcher.retry_policy.LONGEST_S", 0.001)
    world = World(tmp_path, brain=Scripted(SCRIPT), offices=Outage(tmp_path, dict(CAPS)))
    summary, states = asyncio.run(watched(world.start()))
    assert (summary["ended"], summary["turns"]) == ("the brain is done", 5)
    for method in ("open_account", "balance"):
        assert any(state == "paused" and f"did not answer {method}" in action for state, action in states)


def test_offices_that_never_come_back_are_waited_for_up_to_the_wall_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.researcher.retry_policy.BACKOFF_S", 100.0)
    began = time.monotonic()
    settings = config(budget={**NINE.budget.model_dump(), "researcher": {"wall_hours": 0.3 / 3600}})
    offices = Outage(tmp_path, dict(CAPS))
    offices.left = 10**9
    world = World(tmp_path, settings, Scripted([[ToolCall("wait", {"seconds": 0.01})]]), offices=offices)
    assert world.run()["ended"] == "the time is over"
    assert time.monotonic() - began < 30


def test_the_wall_time_of_a_turn_that_a_crash_cut_short_is_charged_once(tmp_path: Path) -> None:
    calls = [ToolCall("wait", {"seconds": 0.2}), ToolCall("forum_claim", {"idea": "an idea"})]
    world = World(tmp_path, brain=Scripted([calls, [ToolCall("finish")]]))
    researcher = world.start()
    claim = world.offices.post

    async def killed(key: str, author: str, draft: dict[str, Any]) -> dict[str, Any]:
        raise Crash

    world.offices.post = killed  # type: ignore[method-assign]
    with pytest.raises(Crash):
        asyncio.run(researcher.run())
    world.offices.post = claim  # type: ignore[method-assign]
    summary = asyncio.run(world.start().run())
    assert summary["turns"] == 2
    assert 200 <= summary["wall_ms"] < 5000
    assert world.offices.spent["wall_ms"] == summary["wall_ms"]


def test_posts_are_seen_once_and_stay_in_the_history(tmp_path: Path) -> None:
    brain = Scripted([[ToolCall("budget")], [ToolCall("budget")], [ToolCall("finish")]])
    offices = Offices(tmp_path, dict(CAPS))
    for number in range(3):
        offices.add_post("02-other", kind="insight", title=f"t{number}", body="")
    world = World(tmp_path, brain=brain, offices=offices)
    world.run()
    assert [len(observation.seen.posts) for observation in brain.asked] == [3, 0, 0]
    assert [post["title"] for post in world.transcript.history[0].seen.posts] == ["t0", "t1", "t2"]


def test_a_quiet_forum_is_asked_for_posts_no_more_and_a_new_post_comes_with_the_next_turn(tmp_path: Path) -> None:
    offices = Offices(tmp_path, dict(CAPS))

    class Posting(Scripted):
        async def decide(self, observation: Observation) -> Decision:
            if observation.turn == 4:
                offices.add_post("02-other", kind="insight", title="news", body="")
            return await super().decide(observation)

    pause = ToolCall("wait", {"seconds": 0.1, "until": "time"})
    world = World(tmp_path, brain=(brain := Posting([[pause]] * 6)), offices=offices, max_turns=6)
    world.run()
    titles = [[post["title"] for post in observation.seen.posts] for observation in brain.asked]
    assert titles == [[], [], [], [], [], ["news"], []]
    assert offices.asked["unread"] <= 3


def test_wall_time_is_charged_while_the_brain_thinks_and_the_last_turns_before_the_end(tmp_path: Path) -> None:
    offices = Offices(tmp_path, dict(CAPS))
    seen: list[list[str]] = []

    class Thinking(Scripted):
        async def decide(self, observation: Observation) -> Decision:
            seen.append([name.split("/")[1] for name in offices.effects if name.endswith("/wall")])
            if observation.turn == 1:
                await asyncio.sleep(2 * CHARGE_AFTER_S)
                seen.append([name.split("/")[1] for name in offices.effects if name.endswith("/wall")])
            return await super().decide(observation)

    world = World(tmp_path, brain=Thinking([[ToolCall("budget")], [ToolCall("finish")]]), offices=offices)
    summary = world.run()
    assert seen == [[], [], ["0"]]
    assert offices.spent["wall_ms"] == summary["wall_ms"]


def test_without_a_forum_its_tools_are_not_offered(tmp_path: Path) -> None:
    world = World(tmp_path, config(forum={"enabled": False}), Scripted(SCRIPT))
    summary = world.run()
    assert (summary["posts"], summary["pilots"], summary["submissions"]) == (0, 1, 1)
    assert world.transcript.history[0].done[1].result.reason == "unknown_tool"
    assert world.offices.posts == []


def test_status_says_what_happens(tmp_path: Path) -> None:
    world = World(tmp_path, brain=Scripted(SCRIPT))
    researcher = world.start()
    assert researcher.status()["state"] == "idle"
    asyncio.run(researcher.run())
    status = researcher.status()
    assert (status["state"], status["turn"], status["pilots"], status["last_action"]) == ("ended", 5, 1, "ended")


def test_a_new_direction_is_told_once_and_holds_from_then_on_through_crashes(tmp_path: Path) -> None:
    brain = Scripted(SCRIPT)
    world = World(tmp_path, brain=brain)
    old = world.config.direction_of(world.researcher).text
    with pytest.raises(Crash):
        asyncio.run(world.start(Fuse(30)).run())
    world.start()
    before, asked = world.transcript.next_turn(), len(brain.asked)
    world.transcript.redirect("Look elsewhere.")
    world.transcript.redirect("The first one stays.")
    asyncio.run(world.start().run())
    notes = ["Look elsewhere." in turn.seen.note for turn in world.transcript.history]
    assert notes.count(True) == 1
    assert before <= notes.index(True) <= before + 1
    assert {o.direction for o in brain.asked[:asked]} == {old}
    assert {o.direction for o in brain.asked[asked:]} == {"Look elsewhere."}
    assert not any("The first one stays." in turn.seen.note for turn in world.transcript.history)
