"""The judge on a task from files: the same offices, pools and audits, and labels nowhere but in its memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from actors.evaluator.splits import SPLITS, TruthError
from gpu_pool.leases import LeaseRequest, Step
from gpu_pool.weak_to_strong.items import ItemSet
from tests.unit.actors.evaluator_world import World, needles
from tests.unit.actors.task_files import made_up, write_rows

SECRET = bytes(range(32))
PROTOCOL = {"epochs": 2, "lr": 0.001, "batch": 8, "trainable": "lora:4"}


def fake_model(folder: Path) -> Path:
    """What the scheduler of these tests takes for a pretrained model."""
    folder.mkdir(parents=True)
    save_file({"w": np.full((2, 2), 7.0, np.float32)}, folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def files(root: Path, **more: Any) -> dict[str, Any]:
    rows = {split: made_up(count, split) for split, count in (("train_label", 50), ("test", 300))}
    rows["train_unlabel"] = [
        {**one, "id": f"secret-id-{number}", "group": f"secret-group-{number}"}
        for number, one in enumerate(made_up(400, "free"))
    ]
    models = {which: str(fake_model(root / which)) for which in ("weak", "strong")}
    path = str(write_rows(root / "data", rows))
    lab = {"path": path, **models, "protocol": PROTOCOL, "description": "Made up.", **more}
    return {"domains": ["lab"], "files": {"lab": lab}}


@pytest.fixture
def world(tmp_path: Path) -> World:
    teacher = {**PROTOCOL, "epochs": 3, "members": 2}
    runs = {"student_mb": 300, "predict_seconds": 77, "slack_seconds": 500}
    return World(tmp_path, secret=SECRET, task=files(tmp_path / "files", teacher=teacher), runs=runs)


def steps(world: World) -> list[tuple[LeaseRequest, Step]]:
    return [(request, step) for request in world.scheduler.requests.values() for step in request.job.steps]


def test_a_campaign_on_files_is_prepared_answers_and_seals(world: World) -> None:
    asyncio.run(world.evaluator.prepare())
    snapshot = world.method(0.85)
    answer = asyncio.run(world.evaluator.submit("k1", "01-a", snapshot, "good", "dev"))
    assert 0.7 < answer["accuracy"] < 1
    board = asyncio.run(world.evaluator.submit("k2", "01-a", snapshot, "good", "board"))
    assert board["new_best"]
    sealed = asyncio.run(world.evaluator.seal())
    rows = {row["method"]: row for row in sealed["rows"]}
    assert {"good", "vanilla", "confident", "weak", "ceiling"} <= set(rows)
    assert rows["good"]["n"] == 300
    record = next(r for r in world.evaluator.records() if r["method"] == "good" and r["tier"] == "seal")
    assert {audit["outcome"] for audit in record["audits"]} <= {"pass", "tag"}


def test_what_researchers_see_has_no_label_group_or_id_of_the_files(world: World) -> None:
    asyncio.run(world.evaluator.prepare())
    public = world.paths.public / "lab"
    shown = ItemSet.load(public / "items.arrow")
    assert shown == world.all_splits()[0].split("pool_a").items
    assert shown.groups is None
    assert b"secret-" not in b"".join(path.read_bytes() for path in public.iterdir())
    task = json.loads((public / "task.json").read_text())
    assert task["protocol"] == {**PROTOCOL, "betas": [0.9, 0.95]}
    assert task["description"].startswith("Made up. Which of two answers")
    assert (Path(task["strong_model"]) / "prompt.json").is_file()


def test_no_file_and_no_lease_holds_the_labels_afterwards(world: World) -> None:
    asyncio.run(world.evaluator.prepare())
    asyncio.run(world.evaluator.submit("k", "01-a", world.method(0.8), "one", "board"))
    asyncio.run(world.evaluator.seal())
    patterns = needles(world.all_splits()[0])
    requests = [json.dumps(request.to_dict()).encode() for request in world.scheduler.requests.values()]
    for content in [path.read_bytes() for path in world.files()] + requests:
        assert not any(pattern in content for pattern in patterns)


def test_protocols_models_and_limits_reach_every_step(world: World) -> None:
    asyncio.run(world.evaluator.prepare())
    asyncio.run(world.evaluator.submit("k", "01-a", world.method(0.8), "one", "board"))
    asyncio.run(world.evaluator.seal())
    cache = Path(world.config.pool.cache_dir or "") / "models"
    seen = set()
    for request, step in steps(world):
        seen.add(step.entry)
        if step.entry in ("teacher", "ceiling", "method"):
            expected = (
                {**PROTOCOL, "epochs": 3, "members": 2} if step.entry == "teacher" else {**PROTOCOL, "members": 1}
            )
            assert {name: step.params[name] for name in expected} == expected
            assert step.outputs == {"student.safetensors": 300 << 20}
            assert request.seconds >= 500
        elif step.entry != "pretrain":
            assert step.seconds == 77
        model = Path(step.inputs.get("strong") or step.inputs.get("model") or cache)
        assert model.is_relative_to(cache) or model == world.paths.judge / "lab" / "audit" / "strong"
    assert seen == {"teacher", "ceiling", "method", "predict", "features", "initial"}


def test_files_that_changed_are_refused_when_the_campaign_is_resumed(world: World) -> None:
    path = Path(world.config.task.files["lab"].path) / "test.jsonl"
    path.write_text(path.read_text().replace("yes 3", "yes, 3"))
    with pytest.raises(TruthError, match=r"the pools are not those .* and its files as they were then"):
        world.start()


def test_pools_are_in_the_vault_under_the_names_of_all_domains(world: World) -> None:
    (splits,) = world.all_splits()
    assert {name: len(splits.split(name)) for name in SPLITS} == {
        "train_label": 50, "pool_a": 120, "pool_b": 120, "dev": 80, "board": 80, "seal": 300,
    }  # fmt: skip
