from __future__ import annotations

import pytest

from cluster.errors import RefusedError
from forum_actor.code_store import MAX_FILES, MAX_METHOD_BYTES, MAX_TREE_BYTES
from tests.unit.forum_actor.desk import Desk


def push(desk: Desk, key: str, text: str, parent: str | None = None, author: str = "01-a") -> str:
    return desk.code.push(key, author, {"method.py": text}, parent, "a note\u200b")


def test_a_snapshot_is_named_by_its_content(desk: Desk) -> None:
    sha = push(desk, "1", "x = 1\n")
    assert push(desk, "2", "x = 1\n", author="02-b") == sha
    assert desk.code.fetch(sha) == {"method.py": "x = 1\n"}
    assert [event.payload["known"] for event in desk.journal.events()] == [False, True]


def test_a_retried_push_is_written_once(desk: Desk) -> None:
    sha = push(desk, "1", "x = 1\n")
    assert push(desk, "1", "x = 1\n") == sha
    for text, parent in (("x = 2\n", None), ("x = 1\n", sha)):
        with pytest.raises(RefusedError) as caught:
            push(desk, "1", text, parent)
        assert caught.value.reason == "key_reused"
    assert len(desk.journal.events(kind="push")) == 1


def test_lineage_leads_to_the_root_and_never_turns_in_a_circle(desk: Desk) -> None:
    root = push(desk, "1", "a\n")
    child = push(desk, "2", "b\n", root, author="02-b")
    push(desk, "3", "a\n", child, author="03-c")
    line = desk.code.lineage(child)
    assert [entry["snapshot"] for entry in line] == [child, root]
    assert line[1]["author"] == "01-a"
    assert line[1]["also_pushed_by"] == ["03-c"]
    assert line[0]["note"] == "a note"


def test_a_diff_names_files_and_lines(desk: Desk) -> None:
    a = push(desk, "1", "one\ntwo\n")
    b = desk.code.push("2", "01-a", {"method.py": "one\n2\n", "extra/notes.md": "hello\n"}, a, "")
    text = desk.code.diff(a, b)
    assert "-two" in text
    assert "+2" in text
    assert "+++ b/extra/notes.md" in text
    assert "--- /dev/null" in text
    assert desk.code.diff(a, a) == ""


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "bad_snapshot"),
        ({"../method.py": "x"}, "bad_snapshot"),
        ({"/etc/passwd": "x"}, "bad_snapshot"),
        ({"a//b": "x"}, "bad_snapshot"),
        ({"method.py": "a\0b"}, "bad_snapshot"),
        ({"method.py": "\ud800"}, "bad_snapshot"),
        ({"method.py": b"bytes"}, "bad_snapshot"),
        ({"a": "x", "a/b": "y"}, "bad_snapshot"),
        ({"method.py": "x" * (MAX_METHOD_BYTES + 1)}, "too_large"),
        ({"data.txt": "x" * (MAX_TREE_BYTES + 1)}, "too_large"),
        ({f"f{n}": "" for n in range(MAX_FILES + 1)}, "too_large"),
    ],
)
def test_what_is_no_small_tree_of_text_is_refused(desk: Desk, files: dict[str, str], reason: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        desk.code.push("1", "01-a", files, None, "")
    assert refusal.value.reason == reason
    assert desk.journal.events() == []


@pytest.mark.parametrize("sha", ["0" * 64, "x", "", "../../x"])
def test_a_snapshot_that_nobody_pushed_is_refused(desk: Desk, sha: str) -> None:
    for call in (desk.code.fetch, desk.code.lineage):
        with pytest.raises(RefusedError) as refusal:
            call(sha)
        assert refusal.value.reason == "unknown_snapshot"


def test_an_object_that_is_no_snapshot_cannot_be_fetched(desk: Desk) -> None:
    sha = push(desk, "1", "x = 1\n")
    blob = desk.journal.events()[0].payload["files"][0][1]
    assert blob != sha
    with pytest.raises(RefusedError):
        desk.code.fetch(blob)


def test_snapshots_survive_a_restart(desk: Desk) -> None:
    sha = push(desk, "1", "x = 1\n")
    desk.close()
    desk.open()
    assert desk.code.fetch(sha) == {"method.py": "x = 1\n"}
    assert push(desk, "1", "x = 1\n") == sha
