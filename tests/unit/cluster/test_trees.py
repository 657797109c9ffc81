"""Trees of every shape that foreign code can make are removed, and measured within bounds."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.trees import Walk, empty_tree, remove_tree, tree_bytes
from tests.unit.cluster.sandbox_kit import as_nobody, needs_root

NESTED = 3_000
"""Three times as deep as Python recurses, and deeper than a path may be long."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one, which pytest does not clean up itself: it would recurse."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="aar-trees-", dir=memory))
    yield path
    assert remove_tree(path)


def nest(folder: Path, depth: int) -> None:
    """`depth` folders, each in the one before, made as code in a sandbox can: by relative names."""
    here = os.open(folder, os.O_PATH)
    for level in range(depth):
        os.mkdir("d", dir_fd=here)
        os.close(os.open(f"file{level % 7}", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("d", os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_a_tree_deeper_than_any_path_is_removed(folder: Path) -> None:
    nest(folder, NESTED)
    assert remove_tree(folder)
    assert not folder.exists()


def test_a_tree_that_forks_at_each_level_is_removed(folder: Path) -> None:
    for a in "abc":
        for b in "abc":
            (folder / a / b / "x").mkdir(parents=True)
            nest(folder / a / b / "x", 50)
    assert empty_tree(folder)
    assert folder.is_dir()
    assert not any(folder.iterdir())


def test_no_descriptor_is_left_open_and_few_are_needed(folder: Path) -> None:
    nest(folder, 500)
    code = (
        "import resource, sys, os; sys.path.insert(0, '.'); from cluster.trees import remove_tree\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        "before = len(os.listdir('/proc/self/fd')); assert remove_tree(sys.argv[1])\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=Path(__file__).parents[3])


def test_links_are_removed_and_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    (folder / "to-folder").symlink_to(tmp_path)
    (folder / "to-file").symlink_to(tmp_path / "kept")
    (folder / "loop").symlink_to(folder)
    assert empty_tree(folder)
    assert (tmp_path / "kept").read_text() == "x"


def test_a_link_in_place_of_the_tree_is_removed_and_what_it_names_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    (folder / "link").symlink_to(tmp_path)
    assert not empty_tree(folder / "link")
    assert remove_tree(folder / "link")
    assert (tmp_path / "kept").exists()


def test_fifos_sockets_and_odd_names_go_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    for name in (b"\xff\xfe", b"new\nline", b"-rf", b" ", b"\x1b[31m", "\u202e".encode(), b"x" * 255):
        (folder / os.fsdecode(name)).mkdir()
        (folder / os.fsdecode(name) / os.fsdecode(name)).write_text("x")
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(empty_tree(folder)), daemon=True)
    thread.start()
    thread.join(60)
    assert done == [True]


def test_many_names_in_one_folder_are_removed(folder: Path) -> None:
    here = os.open(folder, os.O_PATH)
    for number in range(20_000):
        os.mknod(f"{number}", stat.S_IFREG, dir_fd=here)
    os.close(here)
    assert empty_tree(folder)


LOCKED = """
import json, os, sys
from cluster.trees import remove_tree, tree_bytes
root = sys.argv[1]
for path in ("a/b/c", "d/e"):
    os.makedirs(f"{root}/{path}")
    open(f"{root}/{path}/file", "w").close()
for path in ("a/b/c", "a/b", "a", "d/e"): os.chmod(f"{root}/{path}", 0)
os.chmod(f"{root}/d", 0o500)
measured = tree_bytes(root)
os.chmod(root, 0o111)
print(json.dumps({"measured": measured, "gone": remove_tree(root), "left": os.path.lexists(root)}))
"""


@needs_root
def test_a_user_who_is_not_root_removes_folders_that_were_locked() -> None:
    assert as_nobody(LOCKED, "{folder}/tree", timeout=60) == {"measured": None, "gone": True, "left": False}


def mark(path: Path, flag: int) -> None:
    """What `chattr` does; skips where the file system has no such marks or this user may not set them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, 0x80086601, flags)
        fcntl.ioctl(descriptor, 0x40086602, (flag | int.from_bytes(flags, "little")).to_bytes(8, "little"))
    except OSError as error:
        pytest.skip(f"no marks here: {error}")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("flag", [0x10, 0x20], ids=["immutable", "append-only"])
def test_marked_files_and_folders_are_removed(folder: Path, flag: int) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c").mkdir()
    for path in (folder / "a" / "b" / "file", folder / "a" / "top"):
        path.write_text("x")
    for path in (folder / "a" / "b" / "file", folder / "a" / "top", folder / "a" / "b", folder / "a", folder):
        mark(path, flag)
    assert remove_tree(folder)
    assert not folder.exists()


@needs_root
def test_a_mount_is_not_entered_and_the_rest_goes(folder: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own; a bind mount has the device number of what is around it."""
    (tmp_path / "kept").write_text("x")
    (folder / "deep" / "mounted").mkdir(parents=True)
    (folder / "deep" / "file").write_text("x")
    program = (
        "import sys; sys.path.insert(0, '.'); from cluster.trees import remove_tree, tree_bytes\n"
        "assert tree_bytes(sys.argv[1]) is None; assert not remove_tree(sys.argv[1])"
    )
    script = 'mount --bind "$1" "$2/deep/mounted" && exec "$3" -c "$4" "$2"'
    words = [str(tmp_path), str(folder), sys.executable, program]
    subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *words], check=True, cwd=Path(__file__).parents[3])
    assert (tmp_path / "kept").exists()
    assert not list(folder.rglob("file"))


@needs_root
def test_a_mount_point_itself_can_be_emptied(folder: Path) -> None:
    """As a sandbox empties its own `/tmp`."""
    program = (
        "import sys; sys.path.insert(0, '.'); from cluster.trees import empty_tree; assert empty_tree(sys.argv[1])"
    )
    script = 'mount -t tmpfs none "$1" && mkdir "$1/a" && touch "$1/a/b" && exec "$2" -c "$3" "$1"'
    words = [str(folder), sys.executable, program]
    subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *words], check=True, cwd=Path(__file__).parents[3])


def test_what_is_missing_is_gone_and_a_file_is_a_tree_of_one(folder: Path) -> None:
    assert remove_tree(folder / "nothing" / "here")
    assert remove_tree(folder / "nothing")
    assert empty_tree(folder / "nothing")
    (folder / "file").write_text("x")
    assert remove_tree(folder / "file")


def test_a_tree_is_measured_up_to_a_number_of_entries(folder: Path) -> None:
    for number in range(12):
        (folder / f"f{number}").write_bytes(b"12")
    (folder / "link").symlink_to("/etc/passwd")
    assert tree_bytes(folder) == 24 + len("/etc/passwd")
    assert tree_bytes(folder, most=12) is None
    assert sorted(found.path for found in Walk(folder, 100) if found.regular) == sorted(f"f{n}" for n in range(12))


def test_measuring_a_deep_tree_ends_and_says_that_it_saw_a_part(folder: Path) -> None:
    nest(folder, NESTED)
    walk = Walk(folder, 100_000)
    assert 1_000 < sum(1 for _ in walk) < NESTED
    assert not walk.whole
    assert tree_bytes(folder, most=1_000_000) is None
