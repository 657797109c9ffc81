"""Staging, the sandbox's library and the node cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.config import Pool
from gpu_pool.cache import NodeCache
from gpu_pool.library import engine_version, library_files, materialise
from gpu_pool.staging import StagingError, stage


def test_the_library_leaves_out_what_knows_the_truth() -> None:
    names = library_files()
    assert "gpu_pool/weak_to_strong/trainer.py" in names
    assert not [n for n in names if "domains" in n or n.startswith(("actors", "forum_actor", "scripts", "tests"))]
    assert not [n for n in names if n in ("cluster/store.py", "cluster/remote.py", "gpu_pool/slot.py")]


def test_materialise_is_made_once_and_world_readable(tmp_path: Path) -> None:
    first = materialise(tmp_path)
    assert first == materialise(tmp_path)
    assert first.name == f"library-{engine_version()}"
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in first.rglob("*"))


def test_a_private_file_is_copied_and_a_public_one_is_linked(tmp_path: Path) -> None:
    into, models = tmp_path / "in", tmp_path / "models"
    into.mkdir()
    models.mkdir()
    private, public = tmp_path / "private", tmp_path / "public"
    private.write_text("a")
    private.chmod(0o600)
    public.write_text("b")
    public.chmod(0o644)
    stage({"private": private, "deep/public": public}, into, models)
    assert (into / "private").stat().st_ino != private.stat().st_ino
    assert private.stat().st_mode & 0o777 == 0o600
    assert (into / "deep" / "public").stat().st_ino == public.stat().st_ino


def test_inputs_of_the_cache_are_reached_through_the_bind(tmp_path: Path) -> None:
    into, models = tmp_path / "in", tmp_path / "models"
    into.mkdir()
    (models / "key" / "strong").mkdir(parents=True)
    stage({"strong": models / "key" / "strong"}, into, models)
    assert str((into / "strong").readlink()) == "/cache/key/strong"


@pytest.mark.parametrize("name", ["../out", "/abs", "a//b", ""])
def test_an_input_name_cannot_leave_its_directory(tmp_path: Path, name: str) -> None:
    source = tmp_path / "file"
    source.write_text("x")
    into = tmp_path / "in"
    into.mkdir()
    with pytest.raises(Exception, match="plain relative path"):
        stage({name: source}, into, tmp_path / "models")


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    into = tmp_path / "in"
    into.mkdir()
    with pytest.raises(StagingError, match=r"weak\.safetensors.*does not exist"):
        stage({"weak.safetensors": tmp_path / "nothing"}, into, tmp_path / "models")


def test_links_inside_an_input_directory_are_not_followed(tmp_path: Path) -> None:
    source, into = tmp_path / "code", tmp_path / "in"
    source.mkdir()
    into.mkdir()
    (source / "method.py").write_text("x = 1")
    (source / "leak").symlink_to("/etc/passwd")
    stage({"code": source}, into, tmp_path / "models")
    assert [path.name for path in (into / "code").iterdir()] == ["method.py"]


def test_an_input_folder_is_brought_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_pool.staging.MOST_ENTRIES", 10)
    source, into = tmp_path / "code", tmp_path / "in"
    source.mkdir()
    into.mkdir()
    for n in range(12):
        (source / f"f{n}.py").write_text("x = 1")
    with pytest.raises(StagingError, match="more than 10 files"):
        stage({"code": source}, into, tmp_path / "models")


def test_a_cache_entry_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path)
    cache.models.mkdir()

    def fail() -> None:
        with cache.building("key") as directory:
            (directory / "half").write_text("x")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert not cache.has("key")
    assert list(cache.models.iterdir()) == []
    with cache.building("key") as directory:
        (directory / "whole").write_text("x")
    assert (cache.entry("key") / "whole").read_text() == "x"
    with cache.building("key") as directory:
        (directory / "second").write_text("x")
    assert os.listdir(cache.entry("key")) == ["whole"]  # noqa: PTH208


def test_sandboxes_can_read_the_cache_whatever_the_umask_of_who_made_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        cache = NodeCache.of(Pool(cache_dir=str(tmp_path / "cache")))
    finally:
        os.umask(before)
    assert cache.models.stat().st_mode & 0o777 == 0o755
