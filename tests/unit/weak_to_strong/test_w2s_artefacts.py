from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from gpu_pool.weak_to_strong.errors import ArtefactError
from gpu_pool.weak_to_strong.tasks.artefacts import JSON, Artefacts, canonical, code_version

KEY: dict[str, JSON] = {"task": "abc", "seed": 3, "layers": [1, 2], "lr": 1e-3}


class Made:
    """Counts how often it was asked to compute."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, npt.NDArray[np.generic]]:
        self.times += 1
        return {
            "hidden": np.arange(24, dtype=np.float32).reshape(4, 3, 2),
            "chosen": np.array([True, False, True]),
            "ids": np.arange(10, dtype=np.int64)[::2],
            "none": np.zeros((0, 5), np.float16),
        }


def test_arrays_are_computed_once_and_come_back_equal(tmp_path: Path) -> None:
    made = Made()
    for artefacts in (Artefacts(tmp_path), Artefacts(tmp_path)):
        for _ in range(2):
            found = artefacts.arrays("hidden-states", KEY, made)
            for name, array in Made()().items():
                assert found[name].dtype == array.dtype
                np.testing.assert_array_equal(found[name], array)
    assert made.times == 1


def test_arrays_are_read_only_and_in_the_pages_of_the_file(tmp_path: Path) -> None:
    found = Artefacts(tmp_path).arrays("weak", KEY, Made())
    with pytest.raises(ValueError, match="read-only"):
        found["hidden"][0] = 1
    root: object = found["hidden"]
    while isinstance(root, np.ndarray) and not isinstance(root, np.memmap):
        root = root.base
    assert isinstance(root, np.memmap)
    path = Artefacts(tmp_path).arrays_file("weak", KEY, Made())
    assert path.stat().st_mode & 0o222 == 0
    np.testing.assert_array_equal(load_file(path)["hidden"], found["hidden"])


def test_keys_are_equal_by_content_and_differ_by_type(tmp_path: Path) -> None:
    made, artefacts = Made(), Artefacts(tmp_path)
    artefacts.arrays("weak", KEY, made)
    artefacts.arrays("weak", {**dict(reversed(KEY.items())), "layers": (1, 2)}, made)
    assert made.times == 1
    artefacts.arrays("weak", {**KEY, "seed": "3"}, made)
    artefacts.arrays("strong", KEY, made)
    assert made.times == 3
    assert len({canonical({"a": value}) for value in (1, 1.0, True, "1", None)}) == 5


@pytest.mark.parametrize("key", [{"a": float("nan")}, {"a": {1: 2}}, {"a": {1, 2}}, {"a": np.float32(1)}])
def test_keys_that_are_no_json_are_refused(tmp_path: Path, key: dict[str, JSON]) -> None:
    with pytest.raises(ArtefactError, match="plain JSON"):
        Artefacts(tmp_path).arrays("weak", key, Made())


def test_a_kind_cannot_leave_the_root(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="kind"):
        Artefacts(tmp_path).arrays("../weak", KEY, Made())


def test_values_without_a_place_in_the_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="'x' has type object"):
        Artefacts(tmp_path).arrays("weak", KEY, lambda: {"x": np.array([object()])})
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.parent.name == "weak"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "list"])
def test_a_damaged_artefact_is_computed_again_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made()
    Artefacts(tmp_path).arrays("weak", KEY, made)
    (path,) = tmp_path.rglob("*.safetensors")
    data = path.read_bytes()
    if damage == "list":
        path = path.with_name(".artefact.json")
    path.unlink()
    if damage in ("flip", "cut", "list"):
        path.write_bytes({"flip": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-4], "list": b"{"}[damage])
    with caplog.at_level(logging.WARNING):
        found = Artefacts(tmp_path).arrays("weak", KEY, made)
    assert made.times == 2
    assert "damaged" in caplog.text
    np.testing.assert_array_equal(found["hidden"], Made()()["hidden"])
    assert Artefacts(tmp_path).arrays("weak", KEY, made)
    assert made.times == 2


def test_a_failed_computation_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    artefacts = Artefacts(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        artefacts.folder("model", KEY, fail)
    entry = artefacts.folder("model", KEY, lambda folder: (folder / "whole").touch())
    assert [path.name for path in entry.iterdir() if not path.name.startswith(".")] == ["whole"]


def test_what_a_dead_process_left_behind_does_no_harm(tmp_path: Path) -> None:
    entry = Artefacts(tmp_path).folder("model", KEY, lambda folder: (folder / "a").touch())
    entry.rename(entry.with_name(f".{entry.name}.making"))
    again = Artefacts(tmp_path).folder("model", KEY, lambda folder: (folder / "b").touch())
    assert (again / "b").exists()
    assert not (again / "a").exists()


def test_a_folder_with_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="copy the files"):
        Artefacts(tmp_path).folder("model", KEY, lambda folder: (folder / "l").symlink_to("/etc/hostname"))


def test_an_artefact_may_be_made_from_another(tmp_path: Path) -> None:
    artefacts, made = Artefacts(tmp_path), Made()
    probe = artefacts.arrays("probe", KEY, lambda: {"w": artefacts.arrays("hidden", KEY, made)["hidden"] * 2})
    np.testing.assert_array_equal(probe["w"], Made()()["hidden"] * 2)


def test_threads_that_ask_at_once_compute_once(tmp_path: Path) -> None:
    times: list[int] = []

    def slow() -> dict[str, npt.NDArray[np.generic]]:
        times.append(1)
        time.sleep(0.2)
        return Made()()

    threads = [threading.Thread(target=Artefacts(tmp_path).arrays, args=("weak", KEY, slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert times == [1]


PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts
root = Path(sys.argv[1])

def make():
    with (root / "made").open("a") as file:
        file.write("x")
    (root / "begun").touch()
    time.sleep(float(sys.argv[2]))
    return {"x": np.full(100_000, 7.0)}

assert Artefacts(root).arrays("weak", {"seed": 1}, make)["x"].sum() == 700_000
"""


def start(root: Path, seconds: float) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, "-c", PROCESS, str(root), str(seconds)], env=env)


def test_processes_that_race_for_a_key_all_succeed(tmp_path: Path) -> None:
    running = [start(tmp_path, 0.5) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert (tmp_path / "made").read_text() == "x"


def test_the_next_process_computes_when_the_first_dies(tmp_path: Path) -> None:
    first = start(tmp_path, 1000)
    while not (tmp_path / "begun").exists():
        assert first.poll() is None
        time.sleep(0.02)
    second = start(tmp_path, 0)
    first.kill()
    first.wait(60)
    assert second.wait(120) == 0
    assert (tmp_path / "made").read_text() == "xx"


def test_code_version_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__", "inner/__init__", "inner/deep"):
        (package / f"{name}.py").write_text("raise RuntimeError('never run')" if name == "inner/deep" else "")
    monkeypatch.syspath_prepend(tmp_path)
    whole, module = code_version("some_package"), code_version("some_package.inner.deep")
    assert whole == code_version("some_package") != module
    (package / "inner" / "deep.py").write_text("x = 1")
    assert code_version("some_package") != whole
    assert code_version("some_package.inner.deep") != module
    with pytest.raises(ArtefactError, match="no source"):
        code_version("some_package.missing")
