from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.observer.narrate import charged, json_line, markdown, tokens
from cluster.money import MICRO
from cluster.names import RunPaths
from scripts import run_campaign, run_researcher, transcript
from tests.unit.actors.gateway_world import campaign, cost
from tests.unit.actors.model_world import FakeModel, replies, scripted, tool, tools
from tests.unit.actors.researcher_world import World, config

CLAUDE = config(brain={"kind": "claude"})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    thought = {"type": "thinking", "thinking": "let me see", "signature": "c2ln"}
    call = tool("write_file", {"path": "a.md", "content": "x" * 5000 + "\n````\nend"}, "a")
    steps = (
        replies.Reply((thought, {"type": "text", "text": "I write."}, call), "tool_use"),
        tools(tool("read_file", {"path": "missing"}, "b")),
        replies.cut_short("And so"),
    )
    world = World(tmp_path / "researchers", CLAUDE, model=FakeModel(scripted(*steps)))
    world.run()
    world.close()
    assert RunPaths(tmp_path).researcher_db(world.researcher).is_file()
    return tmp_path


def spent_in_turn_0(run_dir: Path) -> int:
    """Micro-dollars by the price list, from the usage of the turn's one answer."""
    (first, *_) = run_researcher.new_turns(RunPaths(run_dir).researcher_db("01-elicitation"), 0)
    return cost(campaign(), first.said[1])


def test_a_transcript_tells_thoughts_words_calls_results_and_spend(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert transcript.main([str(run_dir), "01"]) == 0
    page = capsys.readouterr().out
    dollars = spent_in_turn_0(run_dir) / MICRO
    for words in ("# 01-elicitation", f"## Turn 0 (${dollars:.4f}, ", "from the cache", "> let me see", "> I write.",
                  "**write_file** (ok)", "**read_file** (refused: not_found", "*Stopped:* max_tokens",
                  "**finish** (ok)"):  # fmt: skip
        assert words in page
    assert page.count("````") % 2 == 0
    assert "x" * 5000 in page


def test_an_exported_transcript_is_one_json_line_a_turn(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert transcript.main([str(run_dir), "01-elicitation", "--format", "jsonl", "--from-turn", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["number"] for line in lines] == [1, 2]
    assert lines[0]["said"][1]["content"][0]["name"] == "read_file"
    assert transcript.main([str(run_dir), "nobody"]) == 2
    assert "expected one of 01-elicitation" in capsys.readouterr().err


def test_what_the_terminal_shows_is_bounded(run_dir: Path) -> None:
    turns = run_researcher.new_turns(RunPaths(run_dir).researcher_db("01-elicitation"), 0)
    assert len(markdown(turns[0], 300)) < 2500
    assert (charged(turns[0]), tokens(turns[0])["output_tokens"] > 0) == (spent_in_turn_0(run_dir), True)
    assert json.loads(json_line(turns[0]))["number"] == 0
    assert run_researcher.new_turns(run_dir / "nothing.db", 0) == []


def test_a_researcher_in_the_foreground_is_a_campaign_of_one() -> None:
    arguments = run_researcher.campaign_arguments(["--direction", 'Say "no".', "--name", "mine", "--set", "seed=3"])
    assert arguments[:2] == ["--preset", "quickstart"]
    assert json.loads(arguments[3].removeprefix("researchers.directions=")) == [
        {"id": "researcher", "text": 'Say "no".'}
    ]
    assert arguments[4:] == ["--name", "mine", "--set", "seed=3"]
    arguments = run_researcher.campaign_arguments(["--direction", "x", "--config", "my.yaml", "--name=mine"])
    assert (arguments[:3], arguments[4:]) == (["--config", "my.yaml", "--set"], ["--name=mine"])
    assert run_campaign.parse(arguments).config == Path("my.yaml")


def test_the_bill_in_the_foreground_counts_gpu_time_too() -> None:
    name = "campaign/researcher/01-researcher"
    spent = {name: 3_500_000, f"{name}/tokens": 1_000_000, f"{name}/gpu": 2_500_000, f"{name}/evaluations": 0}
    accounts = {account: {"spent": {"usd": usd}} for account, usd in spent.items()}
    words = run_researcher.bill({"scheduler": {"accounts": accounts}})
    assert words == "Spent so far: $3.50 ($1.00 on the model, $2.50 on pilots)"
    assert run_researcher.bill({}) == "Spent so far: $0.0000"


HOSTILE = "\x1b]0;owned\x07\x1b[2J \u202e \u2066 \x9b31m \u200b \r# 02-other \u2028## Turn 9"


def test_a_transcript_steers_no_terminal_and_its_export_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = tool("write_file", {"path": HOSTILE, "content": HOSTILE}, "a")
    steps = (
        replies.Reply(({"type": "text", "text": HOSTILE}, call), "tool_use"),
        tools(tool(f"no{HOSTILE}", {HOSTILE: "x"}, "b")),
        replies.cut_short(HOSTILE),
    )
    world = World(tmp_path / "researchers", CLAUDE, model=FakeModel(scripted(*steps)))
    world.run()
    world.close()
    for form in ("markdown", "jsonl"):
        assert transcript.main([str(tmp_path), "01", "--format", form]) == 0
        page = capsys.readouterr().out
        assert "\\u001b]0;owned" in page
        assert not set("\x1b\x07\x9b\r\u202e\u2066\u200b\u2028") & set(page)
        assert "\n# 02-other" not in page
        assert "\n## Turn 9" not in page
    assert json.loads(page.split("\n")[0])["said"][1]["content"][0]["text"] == HOSTILE
