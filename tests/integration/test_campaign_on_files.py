"""A whole campaign on a task from files: JSON lines with labels, two model folders, nothing generated on the way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.names import RunPaths
from gpu_pool.weak_to_strong.domains import ModelShape, PretrainSpec
from gpu_pool.weak_to_strong.items import ItemSet
from tests.integration.campaigns import Campaign, ray_home, run_refused, small_config
from tests.unit.actors.task_files import model_folder, rows_of, write_rows
from tests.unit.weak_to_strong.conftest import tiny_domain

ENDS_S = 600
ITEMS = {"train_label": 80, "train_unlabel": 400, "test": 200}


@pytest.fixture
def home() -> Iterator[Path]:
    with ray_home() as path:
        yield path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose task is in files; its models were pretrained for seconds, and know next to nothing."""
    root = tmp_path_factory.mktemp("lab")
    domain = tiny_domain("chat")
    weak = PretrainSpec(ModelShape(16, 2, 8), steps=40, seed=0, batch=16)
    strong = PretrainSpec(ModelShape(32, 2, 16), steps=200, seed=0, batch=16)
    domain.spec = dataclasses.replace(domain.spec, documents=3000, weak=weak, strong=strong)  # type: ignore[misc]
    for which in ("weak", "strong"):
        model_folder(domain, which, root / which)
    rows = rows_of(domain, ITEMS)
    for number, one in enumerate(rows["train_unlabel"]):
        one.update(id=f"its-own-id-{number}", group=f"its-own-group-{number}")
    write_rows(root / "data", rows)
    protocol = {"epochs": 2, "lr": 0.001, "batch": 16, "trainable": "full"}
    files = {"path": str(root / "data"), "weak": str(root / "weak"), "strong": str(root / "strong")}
    config = yaml.safe_load(small_config(root).read_text())
    config["preset"] = "lab"
    config["task"] = {"domains": ["lab"], "files": {"lab": {**files, "protocol": protocol}}}
    config["runs"] = {"pilot_items": 60, "seed_seconds": 30}
    config["research"] = {"minutes": 1.5}
    path = root / "lab.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_broken_row_stops_the_campaign_before_it_starts_and_leaves_nothing(lab: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    broken.mkdir()
    for path in (lab.parent / "data").iterdir():
        (broken / path.name).write_text(path.read_text())
    with (broken / "test.jsonl").open("a") as file:
        file.write('{"prompt": "which", "first": "a", "second": "b", "label": "C"}\n')
    status, error = run_refused(
        "--config", str(lab), "--set", f"task.files.lab.path={broken}", "--runs-dir", str(tmp_path / "runs")
    )
    assert status == 2
    assert f"task.files.lab.path: {broken}/test.jsonl:{ITEMS['test'] + 1}: label is 'C', expected" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
@pytest.mark.timeout(ENDS_S + 120)
def test_explorers_research_a_task_from_files_and_the_run_verifies(lab: Path, tmp_path: Path, home: Path) -> None:
    with Campaign(tmp_path / "runs", "lab", home, "--config", str(lab)) as campaign:
        assert campaign.wait(ENDS_S) == 0, campaign.output()
        campaign.assert_sound()
        paths = RunPaths(campaign.run_dir)
        entries = {event.payload["work"] for event in campaign.events("evaluator", "work_done")}
    summary = json.loads(paths.summary.read_text())
    assert (summary["task"]["domain"], summary["phase"]) == ("lab", "done")
    assert summary["task"]["gap"]["n"] == ITEMS["test"]
    assert {row["method"] for row in summary["baselines"]} >= {"weak", "vanilla", "confident", "ceiling"}
    sealed = [row for row in summary["leaderboard"] if row["tier"] == "seal"]
    assert sealed
    assert all(row["n"] == ITEMS["test"] for row in sealed)
    assert {"model/lab/weak", "model/lab/strong", "audit-material/lab"} <= entries
    shown = ItemSet.load(paths.public / "lab" / "items.arrow")
    assert shown.groups is None
    assert not any("its-own" in id_ for id_ in shown.ids)
