"""The object store: names are hashes, checked on reading; trees never leave their root."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.objects import ObjectError, ObjectStore, safe_relative, sha256_hex
from cluster.wire import pack


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def test_the_name_of_an_object_is_its_hash_and_the_same_bytes_are_stored_once(
    objects: ObjectStore, tmp_path: Path
) -> None:
    sha = objects.put_bytes(b"abc")
    assert sha == sha256_hex(b"abc") == objects.put_bytes(b"abc")
    assert objects.get_bytes(sha) == b"abc"
    assert objects.has(sha)
    assert len([p for p in (tmp_path / "objects").rglob("*") if p.is_file()]) == 1


def test_a_missing_or_damaged_object_is_an_error(objects: ObjectStore, tmp_path: Path) -> None:
    absent = sha256_hex(b"absent")
    assert not objects.has(absent)
    with pytest.raises(ObjectError, match="no object"):
        objects.get_bytes(absent)
    sha = objects.put_bytes(b"abc")
    (tmp_path / "objects" / sha[:2] / sha).write_bytes(b"abd")
    with pytest.raises(ObjectError, match="damaged"):
        objects.get_bytes(sha)


@pytest.mark.parametrize("sha", ["", "ab", "../../etc/passwd", "G" * 64, "A" * 64, "0" * 63 + "/", "0" * 65])
def test_only_a_sha256_names_an_object(objects: ObjectStore, sha: str) -> None:
    for call in (objects.get_bytes, objects.has, objects.get_tree):
        with pytest.raises(ObjectError, match="not a sha256"):
            call(sha)


def test_a_tree_comes_back_and_its_name_does_not_depend_on_the_order(objects: ObjectStore) -> None:
    files = {"method.py": b"x", "lib/a.py": b"y", "lib/b.py": b"", "é.txt": b"z"}
    sha = objects.put_tree(files)
    assert objects.get_tree(sha) == files
    assert objects.put_tree(dict(reversed(files.items()))) == sha
    assert [entry[0] for entry in objects.list_tree(sha)] == sorted(files)
    assert objects.get_tree(objects.put_tree({})) == {}


BAD = [
    "",
    ".",
    "..",
    "/etc",
    "a/../b",
    "../a",
    "a//b",
    "./a",
    "a/",
    "a\nb",
    "a\0b",
    "x" * 241,
    "\udc80",
    "a/..",
    "a\x7f",
]


@pytest.mark.parametrize("path", BAD)
def test_paths_that_leave_the_tree_or_cannot_be_files_are_refused(objects: ObjectStore, path: str) -> None:
    with pytest.raises(ObjectError, match="plain relative path"):
        objects.put_tree({path: b""})


@pytest.mark.parametrize("path", [*BAD[:-3], "a/.."])
def test_a_strangers_object_that_poses_as_a_tree_is_checked_too(objects: ObjectStore, path: str) -> None:
    blob = objects.put_bytes(b"x")
    forged = objects.put_bytes(pack([[path, blob, 1]]))
    with pytest.raises(ObjectError):
        objects.get_tree(forged)


@pytest.mark.parametrize("obj", [3, {}, [1], [["a", "b"]], [["a", 1, 1]], [[1, "b", 1]], [["a", "b", "c"]]])
def test_what_is_not_a_list_of_files_is_not_a_tree(objects: ObjectStore, obj: object) -> None:
    with pytest.raises(ObjectError, match="not a tree"):
        objects.get_tree(objects.put_bytes(pack(obj)))
    with pytest.raises(ObjectError, match="not a tree"):
        objects.get_tree(objects.put_bytes(b"\xc1"))


def test_a_path_is_not_a_file_and_a_directory_at_once(objects: ObjectStore) -> None:
    with pytest.raises(ObjectError, match="at once"):
        objects.put_tree({"a": b"", "a/b": b""})


@given(st.text(max_size=30))
@settings(deadline=None)
def test_every_accepted_path_stays_below_its_root(path: str) -> None:
    try:
        safe = safe_relative(path)
    except ObjectError:
        return
    assert str(safe) == path
    assert PurePosixPath("/root") in PurePosixPath("/root", safe).parents
    assert ".." not in safe.parts


@given(st.dictionaries(st.text("abc/.", min_size=1, max_size=6), st.binary(max_size=10), max_size=5))
@settings(deadline=None, max_examples=60)
def test_any_tree_is_stored_whole_or_refused(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as root:
        objects = ObjectStore(Path(root))
        try:
            sha = objects.put_tree(files)
        except ObjectError:
            return
        assert objects.get_tree(sha) == files
        for path, data in files.items():
            target = Path(root, "out", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
