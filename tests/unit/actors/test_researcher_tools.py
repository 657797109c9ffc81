from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.researcher.tools import TOOLS, ToolBox, make_toolbox
from actors.researcher.tools.measures import label_free
from actors.researcher.tools.pilot import stable_seed
from actors.researcher.tools.pilot_data import split
from actors.researcher.types import ToolCall, ToolResult
from cluster.config import CampaignConfig
from cluster.errors import RefusedError
from gpu_pool.weak_to_strong.items import ItemSet
from tests.unit.actors.researcher_world import ITEMS, World, config

METHOD = "def train(run):\n    return None\n"


class Bench:
    """A toolbox among fake offices."""

    def __init__(self, tmp: Path, settings: CampaignConfig | None = None) -> None:
        self.world = World(tmp, settings)
        self.world.start()
        self.ctx = self.world.ctx
        self.box: ToolBox = make_toolbox(self.ctx)
        self.offices = self.world.offices
        self._calls = 0

    def call(self, tool: str, /, *, key: str | None = None, **args: Any) -> ToolResult:
        self._calls += 1
        return asyncio.run(self.box.run(ToolCall(tool, args), key or f"k/{self._calls}"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.world.close()


def test_every_tool_describes_itself(bench: Bench) -> None:
    described = bench.box.describe()
    assert [tool["name"] for tool in described] == [tool.name for tool in TOOLS]
    for tool in described:
        assert len(tool["description"]) > 40
        assert tool["input_schema"]["type"] == "object"
        assert tool["input_schema"].get("additionalProperties") is False


def test_bad_calls_give_reasons(bench: Bench) -> None:
    assert bench.call("fly").reason == "unknown_tool"
    result = bench.call("write_file", path="a")
    assert (result.reason, "content" in result.message) == ("bad_arguments", True)
    assert bench.call("wait", seconds=-1).reason == "bad_arguments"
    assert bench.call("wait", seconds=1, colour="red").reason == "bad_arguments"
    assert bench.call("forum_post", kind="claim", title="x").reason == "bad_arguments"


def test_files_are_written_read_and_listed(bench: Bench) -> None:
    assert bench.call("write_file", path="a/b.txt", content="grün\n" * 3).content == {"path": "a/b.txt", "bytes": 18}
    read = bench.call("read_file", path="a/b.txt", offset=5).content
    assert (read["text"], read["characters"]) == ("grün\n" * 2, 15)
    assert bench.call("list_files").content["files"] == [{"path": "a/b.txt", "bytes": 18}]
    assert bench.call("write_file", path="/ws/a/b.txt", content="x").ok


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "", "a\nb", "x" * 300, "a//b"])
def test_paths_outside_the_workspace_are_refused(bench: Bench, path: str) -> None:
    assert bench.call("write_file", path=path, content="x").reason == "bad_path"
    assert bench.call("read_file", path=path).reason == "bad_path"


def test_the_forum_folder_and_large_files_are_refused(bench: Bench) -> None:
    assert bench.call("write_file", path="forum/INDEX.md", content="x").reason == "read_only"
    assert bench.call("write_file", path="big", content="x" * (257 << 10)).reason == "too_large"
    assert bench.call("write_file", path="bad", content="\ud800").reason in ("not_text", "bad_arguments")


@pytest.mark.parametrize("tool", ["run_pilot", "submit", "code_push"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("def train(run)\n  pass", "syntax_error"),
        ("x = 1\n", "no_train"),
        (METHOD + "#" * (65 << 10), "too_large"),
        ("(" * 5000, "syntax_error"),
    ],
)
def test_what_is_no_method_is_refused_before_it_costs_anything(
    bench: Bench, tool: str, content: str, reason: str
) -> None:
    bench.call("write_file", path="m.py", content=content)
    extra = {"name": "n"} if tool == "submit" else {}
    before = dict(bench.offices.spent)
    result = bench.call(tool, path="m.py", **extra)
    assert result.reason == reason
    if reason == "syntax_error" and "def" in content:
        assert "m.py:1" in result.message
    assert bench.call(tool, path="missing.py", **extra).reason == "not_found"
    assert (bench.offices.spent, bench.offices.effects) == (before, [])


def test_a_pilot_trains_on_one_part_and_measures_another(bench: Bench) -> None:
    bench.call("write_file", path="m.py", content=METHOD)
    result = bench.call("run_pilot", path="m.py", items=100)
    assert result.ok
    content = result.content
    assert (content["status"], content["n_train"], content["held_out"]) == ("ok", 100, ITEMS - 100)
    assert 0 <= content["agree_weak"] <= 1
    assert content["train_seconds"] == 1.0
    folders = [path for path in bench.ctx.workspace.private.iterdir() if path.name.startswith("pilot-")]
    train = ItemSet.load(folders[0] / "train" / "items.arrow")
    held = ItemSet.load(folders[0] / "held" / "items.arrow")
    assert not set(train.ids) & set(held.ids)
    assert len(train) + len(held) == ITEMS
    code = list((bench.ctx.workspace.private / "code").iterdir())
    assert [(path / "method.py").read_text() for path in code] == [METHOD]


def test_a_pilot_repeated_with_its_key_runs_once(bench: Bench) -> None:
    bench.call("write_file", path="m.py", content=METHOD)
    first = bench.call("run_pilot", key="same", path="m.py")
    assert bench.call("run_pilot", key="same", path="m.py") == first
    assert bench.offices.effects == ["run:same"]


def test_a_method_that_fails_is_an_outcome(bench: Bench) -> None:
    bench.offices.pilot_status = "error"
    bench.call("write_file", path="m.py", content=METHOD)
    result = bench.call("run_pilot", path="m.py")
    assert result.ok
    assert result.content["status"] == "error"
    assert "ValueError: no" in result.content["error"]


def test_a_pilot_above_the_budget_is_refused_with_numbers(bench: Bench) -> None:
    bench.offices.caps["gpu_ms"] = 1000
    bench.call("write_file", path="m.py", content=METHOD)
    result = bench.call("run_pilot", path="m.py")
    assert result.reason == "over_budget"
    assert result.content["dimension"] == "gpu_ms"


def test_without_public_files_a_pilot_says_so(bench: Bench) -> None:
    (bench.world.tmp / "public" / "items.arrow").write_bytes(b"no arrow")
    bench.call("write_file", path="m.py", content=METHOD)
    assert bench.call("run_pilot", path="m.py").reason in ("no_task", "failed")


def test_submit_keeps_a_snapshot_and_returns_the_answer(bench: Bench) -> None:
    bench.call("write_file", path="m.py", content=METHOD)
    result = bench.call("submit", key="r/1/0", path="m.py", name="mine")
    assert result.content["tier"] == "dev"
    assert bench.offices.trees[result.content["snapshot"]] == {"method.py": METHOD}
    assert bench.offices.effects == ["push:r/1/0/push", "submit:r/1/0"]
    assert bench.call("leaderboard").content == {"rows": []}


def test_code_is_pushed_and_fetched(bench: Bench) -> None:
    bench.call("write_file", path="m.py", content=METHOD)
    snapshot = bench.call("code_push", path="m.py", note="n").content["snapshot"]
    fetched = bench.call("code_fetch", snapshot=snapshot, save_as="theirs.py")
    assert fetched.content["files"] == {"method.py": METHOD}
    assert bench.call("read_file", path="theirs.py").content["text"] == METHOD
    assert bench.call("code_fetch", snapshot="0" * 64).reason == "unknown_snapshot"


def test_claims_of_others_are_refused(bench: Bench) -> None:
    bench.offices.held["taken"] = "02-other"
    assert bench.call("forum_claim", idea="taken").reason == "claimed"
    assert bench.call("forum_claim", idea="free").ok


def test_a_campaign_without_a_forum_offers_code_but_no_posts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, config(forum={"enabled": False}))
    assert not any(name.startswith("forum") for name in bench.box.names)
    assert {"code_push", "code_fetch", "submit"} <= set(bench.box.names)
    bench.world.close()


def test_an_office_that_fails_is_a_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class TransportError(Exception):
        pass

    async def broken() -> None:
        raise TransportError("lost the connection")

    monkeypatch.setattr(bench.offices, "leaderboard", broken)
    object.__setattr__(bench.ctx, "failures", (TransportError,))
    result = bench.call("leaderboard")
    assert (result.reason, "lost the connection" in result.message) == ("office", True)


def test_measures_know_agreement_collapse_and_sides() -> None:
    weak = np.array([0.9, 0.9, 0.1, 0.1], np.float32)
    prior = np.array([0.9, 0.1, 0.9, 0.1], np.float32)
    own = np.array([0.8, 0.2, 0.3, 0.4], np.float32)
    found = label_free(np.stack([1 - own, own], axis=1), weak, prior)
    assert (found["agree_weak"], found["agree_prior"]) == (0.75, 0.75)
    assert (found["disagreements"], found["prior_sides_with_student"]) == (1, 1.0)
    assert (found["balance"], found["weak_balance"]) == (0.25, 0.5)
    same = label_free(np.stack([1 - weak, weak], axis=1), weak, prior)
    assert same["prior_sides_with_student"] is None


def test_splits_are_stable_disjoint_and_bounded() -> None:
    train, held = split(1000, 400, 7)
    again, _ = split(1000, 400, 7)
    assert (train == again).all()
    assert not set(train.tolist()) & set(held.tolist())
    assert (len(train), len(held)) == (400, 500)
    assert len(split(100, 400, 7)[0]) == 80
    with pytest.raises(RefusedError, match="at least"):
        split(10, 400, 7)
    assert stable_seed("a", 1) == stable_seed("a", 1) != stable_seed("a", 2)


def test_a_researcher_needs_no_torch() -> None:
    code = (
        "import sys, actors.researcher.loop, actors.researcher.tools, actors.researcher.brains.explorer.brain\n"
        "import gpu_pool.weak_to_strong.items\n"
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
