from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.researcher.types import ToolResult
from cluster.sandbox import available
from tests.unit.actors.test_researcher_tools import Bench

EDIT = "str_replace_based_edit_tool"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.world.close()


def edit(bench: Bench, command: str, path: str, **args: Any) -> ToolResult:
    return bench.call(EDIT, command=command, path=path, **args)


def test_a_file_is_created_viewed_and_changed(bench: Bench) -> None:
    assert edit(bench, "create", "/ws/a/m.py", file_text="one\ntwo\nthree").content == {
        "path": "/ws/a/m.py",
        "bytes": 13,
    }
    shown = edit(bench, "view", "a/m.py").content
    assert shown == {"lines": 3, "text": "     1\tone\n     2\ttwo\n     3\tthree"}
    assert edit(bench, "view", "a/m.py", view_range=[2, -1]).content["text"] == "     2\ttwo\n     3\tthree"
    changed = edit(bench, "str_replace", "a/m.py", old_str="two", new_str="2\n2b")
    assert changed.content["text"].splitlines()[1:3] == ["     2\t2", "     3\t2b"]
    edit(bench, "insert", "a/m.py", insert_line=4, insert_text="four")
    edit(bench, "insert", "a/m.py", insert_line=0, insert_text="zero\n")
    assert bench.ctx.workspace.read_text("a/m.py") == "zero\none\n2\n2b\nthree\nfour\n"
    edit(bench, "str_replace", "a/m.py", old_str="2\n2b\n")
    assert bench.ctx.workspace.read_text("a/m.py") == "zero\none\nthree\nfour\n"
    assert edit(bench, "view", "/ws").content["files"] == ["a/m.py (20 bytes)"]
    assert edit(bench, "view", "a").content["files"] == ["a/m.py (20 bytes)"]
    assert edit(bench, "view", "a/").content["files"] == ["a/m.py (20 bytes)"]


def test_what_cannot_be_edited_is_refused_and_left_as_it_is(bench: Bench) -> None:
    edit(bench, "create", "m.py", file_text="x = 1\ny = 1\n")
    twice = edit(bench, "str_replace", "m.py", old_str="= 1", new_str="= 2")
    assert (twice.reason, twice.content["lines"]) == ("ambiguous", [1, 2])
    assert edit(bench, "str_replace", "m.py", old_str="z", new_str="").reason == "no_match"
    assert edit(bench, "str_replace", "m.py", old_str="", new_str="q").reason == "no_match"
    assert edit(bench, "insert", "m.py", insert_line=3, insert_text="q").reason == "bad_range"
    assert edit(bench, "view", "m.py", view_range=[5, 9]).reason == "bad_range"
    assert edit(bench, "view", "m.py", view_range=[2, 1]).reason == "bad_range"
    assert edit(bench, "view", "missing.py").reason == "not_found"
    assert edit(bench, "str_replace", "missing.py", old_str="a").reason == "not_found"
    assert bench.ctx.workspace.read_text("m.py") == "x = 1\ny = 1\n"


def test_a_text_that_stands_on_every_line_of_a_large_file_is_refused_at_once(bench: Bench) -> None:
    edit(bench, "create", "m.py", file_text="ab\n" * 80_000)
    began = time.monotonic()
    twice = edit(bench, "str_replace", "m.py", old_str="b\na", new_str="")
    assert (twice.reason, twice.content["lines"]) == ("ambiguous", list(range(1, 21)))
    assert time.monotonic() - began < 5


def test_a_folder_is_shown_however_many_files_lie_elsewhere(bench: Bench) -> None:
    home = bench.ctx.workspace.root
    for folder in (".git", "a", "z"):
        (home / folder).mkdir()
    for n in range(600):
        (home / ".git" / f"{n}").touch()
        (home / "a" / f"{n}").touch()
    (home / "z" / "m.py").write_text("x = 1\n")
    assert edit(bench, "view", "/ws/z/").content["files"] == ["z/m.py (6 bytes)"]
    assert len(edit(bench, "view", ".git").content["files"]) == 200
    assert not any(".git" in path for path in edit(bench, "view", ".").content["files"])


EDITS = [
    ("insert", {"insert_line": 0, "insert_text": "new"}, "new\nold\n"),
    ("str_replace", {"old_str": "old", "new_str": "older old"}, "older old\n"),
]


@pytest.mark.parametrize(("command", "args", "after"), EDITS)
def test_an_edit_that_runs_again_under_its_key_is_made_once(
    bench: Bench, command: str, args: dict[str, Any], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(bench, "create", "m.py", file_text="old\n")
    with monkeypatch.context() as patch:
        patch.setattr(bench.ctx.workspace, "_write", died)
        with pytest.raises(KeyboardInterrupt):
            bench.call(EDIT, key="k", command=command, path="m.py", **args)
    first = bench.call(EDIT, key="k", command=command, path="m.py", **args)
    assert bench.ctx.workspace.read_text("m.py") == after
    assert bench.call(EDIT, key="k", command=command, path="m.py", **args) == first
    assert bench.ctx.workspace.read_text("m.py") == after
    assert bench.call(EDIT, key="l", command="insert", path="m.py", insert_line=0, insert_text="x").ok
    assert bench.ctx.workspace.read_text("m.py") == f"x\n{after}"


def died(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "x\ny"])
@pytest.mark.parametrize("command", ["view", "create", "str_replace", "insert"])
def test_no_command_leaves_the_workspace(bench: Bench, command: str, path: str) -> None:
    args = {"file_text": "x", "old_str": "a", "insert_line": 0, "insert_text": "t"}
    assert edit(bench, command, path, **args).reason == "bad_path"


def test_links_are_not_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    (bench.ctx.workspace.root / "link").symlink_to(tmp_path / "outside")
    assert not edit(bench, "view", "link/secret").ok
    assert not edit(bench, "view", "link").ok
    assert not edit(bench, "create", "link/new", file_text="x").ok
    assert not (tmp_path / "outside" / "new").exists()


def test_a_command_says_what_it_lacks(bench: Bench) -> None:
    result = edit(bench, "insert", "m.py")
    assert (result.reason, "insert needs insert_line and insert_text" in result.message) == ("bad_arguments", True)
    assert edit(bench, "undo_edit", "m.py").reason == "bad_arguments"
    assert edit(bench, "create", "forum/x", file_text="x").reason == "read_only"


def test_a_picture_is_refused_with_advice(bench: Bench) -> None:
    (bench.ctx.workspace.root / "plot.png").write_bytes(b"\x89PNG")
    result = edit(bench, "view", "plot.png")
    assert (result.reason, "figures" in result.message) == ("image", True)


@pytest.mark.skipif(not available().ok, reason="no usable sandbox")
def test_the_shell_stays_in_its_folder(bench: Bench) -> None:
    first = bench.call("bash", command="mkdir -p deep/er && cd deep/er && echo $PWD; false").content
    assert (first["output"], first["cwd"], first["exit_code"]) == ("/ws/deep/er\n", "/ws/deep/er", 1)
    assert bench.call("bash", command="pwd").content["output"] == "/ws/deep/er\n"
    assert bench.call("bash", command="cd /tmp && exit 3").content["cwd"] == "/tmp"
    assert bench.call("bash", command="cd .. && rm -rf /ws/deep; pwd").content["exit_code"] == 0
    odd = bench.call("bash", command='mkdir -p "/ws/a \';x" && cd "/ws/a \';x"').content["cwd"]
    assert odd == "/ws/a ';x"
    assert bench.call("bash", command="pwd").content["output"] == "/ws/a ';x\n"
    (bench.ctx.workspace.root / ".cwd").write_text("/nowhere")
    assert bench.call("bash", command="pwd").content["output"] == "/ws\n"


@pytest.mark.skipif(not available().ok, reason="no usable sandbox")
def test_long_output_keeps_its_beginning_and_its_end(bench: Bench) -> None:
    output = bench.call("bash", command="echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last").content
    assert output["output"].startswith("first\n")
    assert output["output"].endswith("last\n")
    assert len(output["output"]) < 30_000
    assert "bytes left out" in output["output"]
    assert output["output_bytes"] > 3_000_000


SOURCE = 'A = "one\u2028two"\nB = 2\x0c\nC = "\x85 \x0b \x1c"\n'


def test_lines_are_those_of_the_compiler_and_of_grep(bench: Bench) -> None:
    edit(bench, "create", "m.py", file_text=SOURCE)
    shown = edit(bench, "view", "m.py").content
    assert shown["lines"] == 3 == SOURCE.count("\n")
    assert shown["text"].split("\n")[1] == "     2\tB = 2\x0c"
    assert edit(bench, "view", "m.py", view_range=[4, 4]).reason == "bad_range"
    edit(bench, "insert", "m.py", insert_line=1, insert_text="X = 1")
    text = bench.ctx.workspace.read_text("m.py")
    assert text == SOURCE.replace("\nB", "\nX = 1\nB")
    compile(text, "m.py", "exec")
    changed = edit(bench, "str_replace", "m.py", old_str='C = "', new_str='C = "!')
    assert '     4\tC = "!' in changed.content["text"]
    assert edit(bench, "insert", "m.py", insert_line=5, insert_text="x").reason == "bad_range"


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n\n"])
def test_other_line_ends_are_left_as_they_are(bench: Bench, ends: str) -> None:
    source = f"a = 1{ends}b = 2{ends}"
    bench.ctx.workspace._write("m.py", source.encode())
    edit(bench, "str_replace", "m.py", old_str="b = 2", new_str="b = 3")
    assert bench.ctx.workspace.read("m.py").decode() == source.replace("2", "3")
    assert edit(bench, "view", "m.py").content["lines"] == source.count("\n") or ends == "\r"
