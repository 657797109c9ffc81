"""A campaign as a person runs it: undisturbed, hit by `kill -9` everywhere, refused with a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.names import RunPaths
from tests.integration.campaigns import Campaign, ray_home, run_refused, run_script, small_config

ENDS_S = 600
SUMMARY = ("campaign", "preset", "phase", "wall_seconds", "task", "baselines", "leaderboard", "researchers", "totals")
SERIES = ("diversity", "best_over_time")
ROW = {"method", "researcher", "tier", "pgr", "interval", "seeds", "n", "sandbox_grade", "record_id", "status"}
ACCOUNT = {"id", "direction", "brain", "dollars", "gpu_hours", "wall_hours", "caps"}
COUNTS = {"pilots", "submissions", "posts"}

TEAM = ["01-elicitation", "02-reweighting"]


@pytest.fixture
def home() -> Iterator[Path]:
    with ray_home() as path:
        yield path


def test_a_refused_configuration_names_field_value_and_expectation(tmp_path: Path) -> None:
    wordless = tmp_path / "wordless.yaml"
    wordless.write_text("base: quickstart\nresearchers: {directions: [{id: silent, text: ''}]}\n")
    runs = tmp_path / "runs"
    refusals = {
        ("--preset", "nope"): ("preset", "'nope'", "expected one of", "quickstart"),
        ("--preset", "quickstart", "--set", "pool.gpu_count=3"): ("pool.gpu_count", "3", "expected one of"),
        ("--preset", "quickstart", "--set", "budget.campaign.usd=-1"): ("budget.campaign.usd", "-1", "expected: "),
        ("--config", str(wordless)): ("researchers.directions.0.text", "''", "expected: "),
        ("--preset", "quickstart", "--set", "pool.min_free_disk_gb=1000000000"): (
            "pool.min_free_disk_gb",
            "GiB are free at",
            "expected at least 1e+09",
        ),
    }
    for arguments, words in refusals.items():
        status, error = run_refused(*arguments, "--runs-dir", str(runs))
        assert status == 2, error
        for word in words:
            assert word in error
        assert not runs.exists(), "a refused campaign leaves nothing behind"


def test_a_taken_or_absent_name_is_refused_and_the_answer_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    status, error = run_refused("--preset", "quickstart", "--name", "mine", "--runs-dir", str(tmp_path))
    assert status == 2
    assert "name: 'mine' is taken" in error
    assert "expected a new name, or --resume --name mine" in error
    status, error = run_refused("--resume", "--name", "other", "--runs-dir", str(tmp_path))
    assert status == 2
    assert "name: no campaign 'other'" in error
    assert "expected" in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.ray
@pytest.mark.timeout(2 * ENDS_S + 60)
def test_an_undisturbed_campaign_ends_verified_and_its_records_come_again(tmp_path: Path, home: Path) -> None:
    with Campaign(
        tmp_path / "runs", "calm", home, "--config", str(small_config(tmp_path, secret_world=True))
    ) as campaign:
        campaign.until_phase("research", ENDS_S)
        assert campaign.processes()
        assert campaign.wait(ENDS_S) == 0, campaign.output()
        assert campaign.survivors() == []
        campaign.assert_sound()
        paths = RunPaths(campaign.run_dir)
        own = [e.payload for e in campaign.events("evaluator", "record") if e.payload["tier"] == "dev"]
        record = next(r["record_id"] for r in own if r["researcher"] in TEAM)
    status, said = run_script("replay_record", str(paths.root), record, home=home, seconds=ENDS_S)
    assert status == 0, said
    assert f"{record} of calm: the same numbers" in said
    _assert_whole(json.loads(paths.summary.read_text()))
    page = paths.report.read_text()
    assert _external(page) == []


def _external(page: str) -> list[str]:
    """What a page would load or lead to outside itself."""
    places = re.findall(r"\b(?:src|srcset|href|action|poster)\s*=\s*[\"']?([^\"'\s>]*)", page)
    places += re.findall(r"url\(\s*[\"']?([^\"')]*)", page)
    tags = re.findall(r"<(?:script|link|iframe|object|embed)\b|@import", page)
    return [place for place in places if not place.startswith(("#", "data:"))] + tags


def _assert_whole(summary: dict[str, Any]) -> None:
    """Everything that a summary promises at the least."""
    assert set(SUMMARY) | set(SERIES) <= set(summary)
    assert (summary["campaign"], summary["preset"], summary["phase"]) == ("calm", "small", "done")
    for figure in ("weak_accuracy", "ceiling_accuracy", "gap"):
        value = summary["task"][figure]
        assert value["n"] > 0
        assert len(value["interval"]) == 2
    assert {row["method"] for row in summary["baselines"]} >= {"weak", "vanilla", "confident", "ceiling"}
    for row in (*summary["baselines"], *summary["leaderboard"]):
        assert set(row) >= ROW
    assert [row["id"] for row in summary["researchers"]] == TEAM
    for row in summary["researchers"]:
        assert set(row) >= ACCOUNT | COUNTS
        assert row["pilots"] > 0
        assert row["posts"] > 0
    assert any(row["tier"] == "seal" for row in summary["leaderboard"])
    assert summary["diversity"]


@pytest.mark.ray
@pytest.mark.timeout(ENDS_S + 60)
def test_a_campaign_whose_every_actor_is_killed_once_ends_by_itself(tmp_path: Path, home: Path) -> None:
    arguments = (
        "--config",
        str(small_config(tmp_path)),
        "--set",
        "research.minutes=1.0",
        "--set",
        "budget.researcher.answers=6",
    )
    with Campaign(tmp_path / "runs", "hit", home, *arguments) as campaign:
        campaign.until_events("scheduler", "lease_granted", 2, ENDS_S)
        campaign.kill_office("SlotActor")
        campaign.kill_office("SchedulerActor")
        campaign.until_events("evaluator", "submission", 1, ENDS_S)
        campaign.kill_office("EvaluatorActor")
        for title in ("ResearcherActor", "ForumActor", "DirectorActor"):
            ended = len(campaign.events("scheduler", "lease_ended"))
            campaign.until_events("scheduler", "lease_ended", ended + 1, ENDS_S)
            campaign.kill_office(title)
        assert campaign.wait(ENDS_S) == 0, campaign.output()
        campaign.assert_sound()
        assert len(campaign.events("director", "resumed")) == 1
        assert len(campaign.events("forum", "post")) > 0


@pytest.mark.ray
@pytest.mark.timeout(2 * ENDS_S)
def test_a_campaign_whose_driver_and_head_are_killed_is_finished_by_resume(tmp_path: Path, home: Path) -> None:
    runs = tmp_path / "runs"
    arguments = ("--config", str(small_config(tmp_path)), "--set", "research.minutes=0.8")
    with Campaign(runs, "cut", home, *arguments) as campaign:
        campaign.until_phase("research", ENDS_S)
        campaign.until_events("evaluator", "submission", 1, ENDS_S)
        campaign.until_events("forum", "post", 4, ENDS_S)
        acknowledged = campaign.journals()
        assert campaign.kill_cluster() == [], "sandboxes outlived the cluster that they hung on"
        on_disk, turns = campaign.journals(), _turns(campaign)
    assert _continues(acknowledged, on_disk)
    with Campaign(runs, "cut", home, "--resume") as campaign:
        assert campaign.wait(ENDS_S) == 0, campaign.output()
        campaign.assert_sound()
        assert _continues(on_disk, campaign.journals()), "no post, record or settlement of before is missing"
        assert len(campaign.events("director", "resumed")) == 1
        assert _turns(campaign) > turns, "research goes on"


def _turns(campaign: Campaign) -> int:
    return sum(len(campaign.events(f"researcher/{name}", "turn")) for name in TEAM)


def _continues(before: dict[str, list[str]], after: dict[str, list[str]]) -> bool:
    """Whether every journal of `before` is the beginning of the same journal of `after`."""
    return all(after.get(name, [])[: len(hashes)] == hashes for name, hashes in before.items())
