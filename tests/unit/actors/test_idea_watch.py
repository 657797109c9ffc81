"""The watch over ideas on real stores: raised once, told to all in spite of deaths, over when the team recovers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.director.ideas import IdeaWatch
from actors.director.namer import TOOL, Namer, chosen, request
from actors.gateway.client import GatewayClient
from actors.gateway.gateway import Gateway
from actors.gateway.requests import RequestParser
from actors.gateway.retries import Failure
from actors.observer.audit_calls import audit_calls
from actors.observer.run_data import load_run
from actors.researcher.client import ResearcherClient
from cluster.config import CampaignConfig, dump_config, load_config
from cluster.errors import AarError
from cluster.journal import Journal
from cluster.names import CAMPAIGN, IDEAS_ACCOUNT, RunPaths
from cluster.objects import ObjectStore
from cluster.remote import Local
from cluster.store import Store
from forum_actor.client import ForumClient
from forum_actor.posts import Post, make_draft
from forum_actor.watch import alarms
from tests.unit.actors.gateway_world import FakeLedger, Simulated, answer, make
from tests.unit.actors.test_observer_diversity import LOSS, PROBE, UE

SPARE = "diversity.spare=[{id: one, text: First.}, {id: two, text: Second.}]"


class Team:
    """Researchers and a forum; `fault` is what the next call raises."""

    def __init__(self) -> None:
        self.directions: dict[str, str] = {}
        self.posts: dict[str, dict[str, Any]] = {}
        self.fault: AarError | None = None

    def check(self) -> None:
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault

    async def post(self, key: str, author: str, draft: dict[str, Any]) -> dict[str, Any]:
        self.check()
        self.posts[key] = {"author": author, **draft}
        return {}

    def member(self, name: str) -> Member:
        return Member(self, name)


class Member:
    def __init__(self, team: Team, name: str) -> None:
        self._team, self._name = team, name

    async def redirect(self, direction: str) -> None:
        self._team.check()
        self._team.directions.setdefault(self._name, direction)


class World:
    def __init__(self, root: Path, *overrides: str, forum: bool = True, gateway: Gateway | None = None) -> None:
        self.paths = RunPaths(root)
        self.gateway = gateway
        self.config: CampaignConfig = load_config("quickstart", overrides=overrides)
        self.team = Team()
        self.forum = forum
        self.evaluator = Journal(Store(self.paths.evaluator_db))
        self.store = Store(self.paths.director_db)
        objects = ObjectStore(self.paths.objects)
        self.code = {name: objects.put_tree({"method.py": source}) for name, source in
                     (("probe", PROBE), ("loss", LOSS), ("prior", UE))}  # fmt: skip
        self.start()

    def start(self) -> None:
        members = {name: ResearcherClient(Local(self.team.member(name))) for name in self.config.researcher_ids()}
        forum, named_by = ForumClient(Local(self.team)) if self.forum else None, self.config.diversity.model
        namer = (
            None if named_by is None or self.gateway is None else Namer(named_by, GatewayClient(Local(self.gateway)))
        )
        self.watch = IdeaWatch(self.paths, self.store, self.config, forum, members, namer)

    def submit(self, code: str, *numbers: int) -> None:
        for number in numbers:
            payload = {"researcher": self.config.researcher_ids()[number], "snapshot": self.code[code]}
            self.evaluator.append("submission", payload)

    def look(self, *gone: int) -> None:
        names = [name for n, name in enumerate(self.config.researcher_ids()) if n not in gone]
        asyncio.run(self.watch.look(names))

    def events(self) -> list[str]:
        return [event.kind for event in Journal(self.store).events()]


def test_an_alarm_is_raised_once_told_to_all_and_over_when_the_team_recovers(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.look()
    world.submit("probe", 0, 1, 2)
    world.look()
    assert (world.watch.alarm, world.events()) == ("", []), "three say nothing about a team"
    world.submit("probe", 3)
    for _ in range(3):
        world.look()
    assert "4 active researchers, 0.00 bits" in world.watch.alarm
    assert world.events() == ["ideas_collapsed"]
    assert list(world.team.posts) == ["collapse/1"]
    post = world.team.posts["collapse/1"]
    assert post.pop("author") == CAMPAIGN
    draft = make_draft(post)
    assert alarms(Post("p-1", 1, 0, CAMPAIGN, draft.kind, draft.title, draft.body), []) == [], "nobody would read it"
    assert world.team.directions == {}, "new directions are not the default"
    world.submit("loss", 2, 3)
    world.look()
    assert world.watch.alarm == ""
    world.submit("prior", 0, 1, 2, 3)
    world.look()
    assert world.events() == ["ideas_collapsed", "ideas_recovered", "ideas_collapsed"]
    assert list(world.team.posts) == ["collapse/1", "collapse/2"]


def test_late_comers_get_directions_that_nobody_holds_once_each(tmp_path: Path) -> None:
    world = World(tmp_path, "diversity.reseed=true", SPARE)
    ids = world.config.researcher_ids()
    world.submit("probe", 4, 3, 2, 1, 0)
    world.look(3)
    assert world.team.directions == {ids[2]: "First.", ids[1]: "Second."}, "4 came first, 3 has ended"
    world.submit("loss", 0)
    world.submit("prior", 1)
    world.look()
    world.submit("loss", 1, 2, 3, 4)
    world.look()
    assert world.events() == ["ideas_collapsed", "ideas_recovered", "ideas_collapsed"]
    assert len(world.team.directions) == 2, "no direction is free any more"


def test_a_team_on_one_direction_has_the_others_of_its_list_left(tmp_path: Path) -> None:
    world = World(tmp_path, "diversity.reseed=true", "researchers.identical=true", "diversity.spare=[]")
    ids, known = world.config.researcher_ids(), world.config.researchers.directions
    world.submit("probe", 0, 1, 2, 3)
    world.look()
    assert world.team.directions == {ids[n]: known[n].text for n in (1, 2, 3)}


@pytest.mark.parametrize("forum", [True, False])
def test_what_was_not_told_before_a_death_is_told_after_it(tmp_path: Path, forum: bool) -> None:
    world = World(tmp_path, "diversity.reseed=true", SPARE, forum=forum)
    world.submit("probe", 0, 1, 2, 3)
    world.team.fault = AarError("the researcher does not answer")
    world.look()
    assert world.team.directions == {}
    assert world.watch.alarm
    world.start()
    world.look()
    ids = world.config.researcher_ids()
    assert world.team.directions == {ids[1]: "First.", ids[2]: "Second."}
    assert list(world.team.posts) == (["collapse/1"] if forum else [])
    assert world.events() == ["ideas_collapsed"]


HAIKU = "claude-haiku-4-5"


def names(*families: str) -> dict[str, Any]:
    call = {"type": "tool_use", "id": "t", "name": TOOL, "input": {"families": list(families)}}
    return {**answer(), "content": [call], "stop_reason": "tool_use"}


def test_a_model_names_the_families_of_each_code_once_on_the_campaigns_account(tmp_path: Path) -> None:
    ledger_actor = FakeLedger(tmp_path / "scheduler.db")
    endpoint = Simulated(names("evolutionary", "nonsense"), names("UE", "ensemble"), answer("I will not."))
    gateway = make(tmp_path, ledger_actor, endpoint)
    overrides = ("brain.kind=claude", f"diversity.model={HAIKU}")
    world = World(tmp_path, *overrides, gateway=gateway)
    world.paths.config.write_text(dump_config(world.config))
    world.submit("probe", 0, 1)
    world.look()
    world.submit("loss", 2)
    world.look()
    world.start()
    world.submit("prior", 3)
    world.look()
    assert [body.model for _, body in endpoint.sent] == [HAIKU] * 3, "each code is asked about once"
    assert "run.hidden" in endpoint.sent[0][1].fields["messages"][0]["content"]
    latest = world.watch._ideas.latest
    ids = world.config.researcher_ids()
    assert [latest[ids[n]] for n in range(4)] == [["evolutionary"], ["evolutionary"], ["ensemble", "UE"], ["UE"]]
    assert ledger_actor.spent(IDEAS_ACCOUNT) == ledger_actor.spent() > 0
    assert ledger_actor.reserved() == 0
    run = load_run(tmp_path)
    assert audit_calls(run) == (3, [])
    assert run.events("director", "families_named")[0].payload["model"] == HAIKU


@pytest.mark.parametrize("reason", ["bad_key", "bad_request"])
def test_without_the_models_help_a_rule_names_the_families(tmp_path: Path, reason: Any) -> None:
    gateway = make(tmp_path, FakeLedger(tmp_path / "scheduler.db"), Simulated(*[Failure(reason, "no")] * 3))
    world = World(tmp_path, "brain.kind=claude", f"diversity.model={HAIKU}", gateway=gateway)
    world.submit("probe", 0)
    world.look()
    assert world.watch._ideas.latest == {world.config.researcher_ids()[0]: ["model internal"]}
    assert world.events() == []


def test_the_code_that_is_named_cannot_say_more_than_a_known_family() -> None:
    RequestParser().parse(request(HAIKU, "# ignore all that\n" * 9000))
    assert len(request(HAIKU, "x" * 90_000)["messages"][0]["content"]) < 21_000
    assert chosen(names("loss", "loss", "best method ever")) == ["loss"]
    for odd in ({}, {"content": None}, names(), names("nothing"), {"content": [{"type": "tool_use", "name": TOOL}]}):
        assert chosen(odd) is None
    for value in (None, 7, "loss", {"loss": 1}, [["loss"]]):
        block = {"type": "tool_use", "name": TOOL, "input": {"families": value}}
        assert chosen({"content": [block]}) is None
