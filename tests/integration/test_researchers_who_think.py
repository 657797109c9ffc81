"""A campaign of language models, with the real gateway and an endpoint of the test's own, hit by `kill -9`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.researcher.transcript import read_turns
from cluster.config import load_config
from cluster.names import RunPaths
from cluster.store import open_readonly
from tests.fake_messages import FakeMessages, Reply, researcher
from tests.integration.campaigns import Campaign, ray_home, small_config

ENDS_S = 900
TEAM = ("01-elicitation", "02-reweighting")
THINKS_S = 0.5
PUBLISHED_ENDS_S = 1500
PUBLISHED_TEAM = tuple(
    f"{number:02d}-{direction['id']}"
    for number, direction in enumerate(load_config(preset="published").model_dump()["researchers"]["directions"], 1)
)


@pytest.fixture
def home() -> Iterator[Path]:
    with ray_home() as path:
        yield path


def slowly(request: dict[str, Any], number: int) -> Reply:
    return researcher(request, number).after(THINKS_S)


@pytest.mark.ray
@pytest.mark.timeout(ENDS_S + 60)
def test_language_models_finish_their_studies_though_they_and_the_gateway_are_killed(
    tmp_path: Path, home: Path
) -> None:
    with FakeMessages(slowly) as endpoint:
        arguments = [
            "--config", str(small_config(tmp_path)),
            "--set", f"brain={{kind: claude, base_url: '{endpoint.url}'}}",
            "--set", "budget.campaign={usd: 12, gpu_hours: 1.5, answers: 60}",
            "--set", "budget.researcher={usd: 4, gpu_hours: 0.2, answers: 6}",
            "--set", "research.minutes=5",
        ]  # fmt: skip
        with Campaign(tmp_path / "runs", "think", home, *arguments) as campaign:
            campaign.until_events(f"researcher/{TEAM[0]}", "turn", 1, ENDS_S)
            campaign.kill_office("ResearcherActor")
            campaign.until_events(f"researcher/{TEAM[1]}", "turn", 2, ENDS_S)
            campaign.kill_office("GatewayActor")
            assert campaign.wait(ENDS_S) == 0, campaign.output()
            campaign.assert_sound()
            for name in TEAM:
                _assert_study(campaign, name)
            ended = {
                e.payload["researcher"]: e.payload["ended"] for e in campaign.events("director", "researcher_ended")
            }
            assert ended == dict.fromkeys(TEAM, "the brain is done")


@pytest.mark.ray
@pytest.mark.timeout(PUBLISHED_ENDS_S + 60)
def test_the_published_team_finishes_though_the_gateway_and_three_researchers_are_killed(
    tmp_path: Path, home: Path
) -> None:
    with FakeMessages(slowly) as endpoint:
        arguments = ["--preset", "published", "--set", f"brain.base_url={endpoint.url}"]
        with Campaign(tmp_path / "runs", "nine", home, *arguments) as campaign:
            for name in PUBLISHED_TEAM[:3]:
                campaign.until_events(f"researcher/{name}", "turn", 2, PUBLISHED_ENDS_S)
                campaign.kill_office("ResearcherActor")
            campaign.until_events("evaluator", "submission_answered", 2, PUBLISHED_ENDS_S)
            campaign.kill_office("GatewayActor")
            assert campaign.wait(PUBLISHED_ENDS_S) == 0, campaign.output()
            campaign.assert_sound()
            phases = [e.payload["phase"] for e in campaign.events("director", "phase")]
            assert phases == list(dict.fromkeys(phases)), "no phase twice"
            assert phases[-1] == "done"
            for name in PUBLISHED_TEAM:
                _assert_study(campaign, name)
            summary = json.loads(RunPaths(campaign.run_dir).summary.read_text())
            assert any(row["tier"] == "seal" and row["researcher"] for row in summary["leaderboard"])


def _assert_study(campaign: Campaign, name: str) -> None:
    """Every turn was decided once, from one answer each, and every step of the study was done once."""
    db = open_readonly(RunPaths(campaign.run_dir).researcher_db(name))
    try:
        turns = list(read_turns(db))
    finally:
        db.close()
    assert [turn.number for turn in turns] == list(range(len(turns)))
    done = Counter(d.call.name for turn in turns for d in turn.done if d.result.ok)
    assert (done["run_pilot"], done["submit"], done["forum_post"], done["finish"]) == (1, 2, 1, 1)
    calls = [e.payload for e in campaign.events("gateway", "call_answered") if e.payload["researcher"] == name]
    assert [call["key"] for call in calls] == [f"{name}/{turn.number}/model/0" for turn in turns]
    charged = sum(entry.get("charged") or 0 for turn in turns for entry in turn.said)
    settled = [e.payload for e in campaign.events("scheduler", "settled")]
    paid = [p["amounts"]["usd"] for p in settled if p["account"] == f"campaign/researcher/{name}/tokens"]
    assert charged == sum(paid) > 0
