from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest

from cluster.sandbox import ReadbackError, readback, readback_to


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "good").write_bytes(b"result")
    (folder / "sub/deep").write_bytes(b"deep")
    return folder


def refused(folder: Path, name: str, max_bytes: int = 100) -> str:
    with pytest.raises(ReadbackError) as caught:
        readback(folder, name, max_bytes)
    return caught.value.reason


def test_a_plain_file_is_read_by_path_or_descriptor(out: Path) -> None:
    assert readback(out, "good", 6) == b"result"
    assert readback(out, "sub/deep", 6) == b"deep"
    descriptor = os.open(out, os.O_RDONLY)
    assert readback(descriptor, "good", 6) == b"result"
    os.close(descriptor)


def test_a_symbolic_link_is_refused_wherever_it_points(out: Path) -> None:
    (out / "link").symlink_to(out.parent / "secret")
    (out / "inner").symlink_to("good")
    (out / "folder").symlink_to("sub")
    (out / "magic").symlink_to(f"/proc/{os.getpid()}/fd/0")
    assert {refused(out, name) for name in ("link", "inner", "folder/deep", "magic")} == {"symlink"}


@pytest.mark.parametrize("name", [
    "", ".", "..", "../secret", "sub/../good", "/etc/passwd", "a//b", "good/", "a\0b", "./good",
])  # fmt: skip
def test_a_name_that_is_not_plain_is_refused(out: Path, name: str) -> None:
    assert refused(out, name) == "name"


def test_what_is_no_regular_file_is_refused_without_waiting(out: Path) -> None:
    os.mkfifo(out / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(out / "sock"))
        assert refused(out, "sock") == "not_regular"
    assert refused(out, "fifo") == "not_regular"
    assert refused(out, "sub") == "not_regular"


def test_a_second_name_is_refused(out: Path) -> None:
    (out / "hard").hardlink_to(out.parent / "secret")
    assert refused(out, "hard") == "hardlink"


def test_a_huge_sparse_file_is_refused_at_once(out: Path) -> None:
    with (out / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert refused(out, "huge") == "too_large"
    assert refused(out, "good", 5) == "too_large"


def test_what_is_missing_or_beyond_a_file_is_told(out: Path) -> None:
    assert refused(out, "none") == "missing"
    assert refused(out, "good/x") == "name"
    assert refused(out, "x" * 300) == "name"
    assert refused(out / "gone", "good") == "io"


def test_growth_while_reading_is_capped(out: Path) -> None:
    """A file of /proc has size 0 and content, as a file that grows after the check."""
    assert refused(Path("/proc/self"), "status", 10) == "too_large"


def test_a_copy_appears_whole_or_not_at_all(out: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    assert readback_to(out, "good", dest, 100) == 6
    assert dest.read_bytes() == b"result"
    with pytest.raises(ReadbackError):
        readback_to(Path("/proc/self"), "status", tmp_path / "dest2", 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dest", "out", "secret"]


def test_the_error_survives_a_trip_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ReadbackError("missing", "a", "is missing")))  # noqa: S301 (as Ray sends it)
    assert (error.reason, error.name, str(error)) == ("missing", "a", "'a': is missing")
