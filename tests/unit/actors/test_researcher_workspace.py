from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.researcher.workspace import Workspace
from cluster.errors import RefusedError


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home" / "workspace", tmp_path / "home" / "private")


def test_the_private_place_is_closed(workspace: Workspace) -> None:
    assert workspace.private.stat().st_mode & 0o777 == 0o700


def test_a_link_leads_neither_reading_nor_writing_out(workspace: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (workspace.root / "folder").symlink_to(outside)
    (workspace.root / "file").symlink_to(outside / "secret")
    for path in ("folder/secret", "file"):
        with pytest.raises(RefusedError) as refused:
            workspace.read(path)
        assert refused.value.reason == "bad_path"
    with pytest.raises(RefusedError) as refused:
        workspace.write_text("folder/new", "x")
    assert refused.value.reason == "bad_path"
    workspace.write_text("file", "mine")
    assert (outside / "secret").read_text() == "secret"
    assert workspace.read_text("file") == "mine"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_a_pipe_does_not_block(workspace: Workspace) -> None:
    os.mkfifo(workspace.root / "pipe")
    with pytest.raises(RefusedError) as refused:
        workspace.read("pipe")
    assert refused.value.reason == "bad_file"
    assert workspace.listing() == []


def test_a_folder_in_the_way_is_an_answer_and_leaves_nothing(workspace: Workspace) -> None:
    (workspace.root / "name").mkdir()
    with pytest.raises(RefusedError) as refused:
        workspace.write_text("name", "x")
    assert refused.value.reason == "bad_path"
    assert list(workspace.root.iterdir()) == [workspace.root / "name"]


def test_size_and_encoding_are_checked(workspace: Workspace) -> None:
    (workspace.root / "raw").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RefusedError) as refused:
        workspace.read_text("raw")
    assert refused.value.reason == "not_text"
    (workspace.root / "big").write_bytes(b"x" * 2000)
    with pytest.raises(RefusedError) as refused:
        workspace.read("big", 1000)
    assert refused.value.reason == "too_large"
    assert workspace.used_bytes() == 2003
