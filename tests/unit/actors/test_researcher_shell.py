from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.researcher.tools import make_toolbox
from actors.researcher.types import ToolCall, ToolResult
from cluster.sandbox import available
from tests.unit.actors.researcher_world import World, config

pytestmark = pytest.mark.skipif(not available().ok, reason="no usable bubblewrap here")


class Shell:
    """The bash tool of a researcher."""

    def __init__(self, tmp: Path) -> None:
        self.world = World(tmp, config(pool={"cache_dir": str(tmp / "cache")}))
        self.world.start()
        self._box = make_toolbox(self.world.ctx)

    def run(self, command: str, seconds: float = 30) -> ToolResult:
        return asyncio.run(self._box.run(ToolCall("bash", {"command": command, "seconds": seconds}), "k"))

    def output(self, command: str) -> str:
        result = self.run(command)
        assert result.ok, result
        return str(result.content["output"])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    tmp_path.chmod(0o755)
    shell = Shell(tmp_path)
    yield shell
    shell.world.close()


def test_a_command_works_in_the_workspace_and_files_go_both_ways(shell: Shell) -> None:
    shell.world.ctx.workspace.write_text("in/a.txt", "hello\n")
    assert shell.output("cat in/a.txt; pwd; echo x >> in/a.txt; mkdir -p out; echo done > out/b") == "hello\n/ws\n"
    assert shell.world.ctx.workspace.read_text("out/b") == "done\n"
    assert shell.world.ctx.workspace.read_text("in/a.txt") == "hello\nx\n"
    shell.world.ctx.workspace.write_text("out/b", "again")


def test_it_sees_the_task_and_the_library_but_no_truth_and_no_network(shell: Shell) -> None:
    seen = shell.output("ls /task /aar/gpu_pool/weak_to_strong; ls /aar/gpu_pool/weak_to_strong/domains 2>&1 | tail -1")
    assert "items.arrow" in seen
    assert "recipes.py" in seen
    assert "No such file" in seen
    assert shell.output("cat /proc/net/dev | grep -c : ; id -u; env | grep -ci ray").split()[0] == "1"
    here = str(shell.world.tmp)
    assert "No such file" in shell.output(f"ls {here} 2>&1")


def test_python_finds_the_library(shell: Shell) -> None:
    code = "from gpu_pool.weak_to_strong.recipes import VANILLA, describe; print(describe(VANILLA))"
    assert shell.output(f'python -c "{code}"').strip().endswith("vanilla")


def test_it_ends_with_its_time_and_everything_it_started(shell: Shell) -> None:
    result = shell.run("sleep 1000 & echo started; sleep 1000", seconds=1)
    assert result.ok
    assert (result.content["timed_out"], result.content["exit_code"]) == (True, None)
    assert result.content["output"] == "started\n"
    assert result.content["seconds"] < 10


def test_what_runs_in_the_background_does_not_keep_the_call_open(shell: Shell) -> None:
    result = shell.run("sleep 1000 & echo started; exit 3", seconds=20)
    assert (result.content["exit_code"], result.content["timed_out"]) == (3, False)
    assert result.content["seconds"] < 10


def test_a_long_output_keeps_head_and_tail(shell: Shell) -> None:
    result = shell.run("seq 1 200000; echo end 1>&2")
    text = result.content["output"]
    assert text.startswith("1\n2\n")
    assert text.endswith("200000\nend\n")
    assert "bytes left out" in text
    assert len(text) < 25_000
    assert result.content["output_bytes"] > 1_000_000


def test_a_link_that_a_command_made_is_not_followed(shell: Shell) -> None:
    shell.run("ln -s /etc/hostname link; ln -s /etc dir")
    ctx = shell.world.ctx
    box = make_toolbox(ctx)
    for path in ("link", "dir/hostname"):
        assert asyncio.run(box.run(ToolCall("read_file", {"path": path}), "k")).reason == "bad_path"
    assert asyncio.run(box.run(ToolCall("write_file", {"path": "dir/x", "content": ""}), "k")).reason == "bad_path"
    assert not os.path.lexists("/etc/x")
