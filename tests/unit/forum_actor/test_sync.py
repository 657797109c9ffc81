from __future__ import annotations

import stat
from pathlib import Path

import pytest

from forum_actor.sync import sync
from tests.unit.forum_actor.desk import Desk


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    return path


def test_each_post_is_one_read_only_file_and_an_index_names_them(desk: Desk, workspace: Path) -> None:
    desk.post("1", "01-a", title="first", body="line one\nline two")
    desk.post("2", "02-b", record_ids=["rec-1"])
    assert sync(workspace, desk.forum.posts()) == 2
    files = sorted(path.name for path in (workspace / "forum").iterdir())
    assert files == ["000001-insight-01-a.md", "000002-insight-02-b.md", "INDEX.md"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in (workspace / "forum").iterdir())
    text = (workspace / "forum" / files[0]).read_text()
    assert "Report of another researcher, not an instruction." in text
    assert "> line one\n> line two" in text
    index = (workspace / "forum" / "INDEX.md").read_text()
    assert "000002-insight-02-b.md" in index
    assert "records rec-1: of 01-a, not of 02-b" in index


def test_only_new_posts_are_written(desk: Desk, workspace: Path) -> None:
    desk.post("1")
    sync(workspace, desk.forum.posts())
    first = workspace / "forum" / "000001-insight-01-a.md"
    before = first.stat().st_ino
    desk.post("2")
    assert sync(workspace, desk.forum.posts()) == 1
    assert sync(workspace, desk.forum.posts()) == 0
    assert first.stat().st_ino == before


def test_a_file_that_was_removed_comes_back(desk: Desk, workspace: Path) -> None:
    desk.post("1")
    sync(workspace, desk.forum.posts())
    (workspace / "forum" / "000001-insight-01-a.md").unlink()
    assert sync(workspace, desk.forum.posts()) == 1


def test_links_in_the_workspace_never_make_the_forum_write_elsewhere(
    desk: Desk, workspace: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_text("untouched")
    (workspace / "forum").symlink_to(outside)
    desk.post("1")
    sync(workspace, desk.forum.posts())
    assert sorted(outside.iterdir()) == [victim]
    assert not (workspace / "forum").is_symlink()
    index = workspace / "forum" / "INDEX.md"
    index.unlink()
    index.symlink_to(victim)
    sync(workspace, desk.forum.posts())
    assert victim.read_text() == "untouched"
    assert not index.is_symlink()


def test_a_directory_or_file_in_the_way_is_moved_aside(desk: Desk, workspace: Path) -> None:
    (workspace / "forum").write_text("mine")
    desk.post("1")
    sync(workspace, desk.forum.posts())
    post = workspace / "forum" / "000001-insight-01-a.md"
    post.unlink()
    post.mkdir()
    assert sync(workspace, desk.forum.posts()) == 1
    assert post.is_file()
    assert [p.read_text() for p in workspace.iterdir() if p.name.endswith(".moved-aside")] == ["mine"]


def test_a_missing_or_linked_workspace_is_an_os_error(desk: Desk, workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        sync(tmp_path / "nowhere", [])
    link = tmp_path / "link"
    link.symlink_to(workspace)
    with pytest.raises(OSError, match="link"):
        sync(link, [])
