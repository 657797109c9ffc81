from __future__ import annotations

import contextlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.sandbox import Grade, SandboxSpec, command, grade, probe_hash, python_binds, seccomp
from cluster.sandbox.decoys import processes_with
from cluster.sandbox.limits import find_hierarchies
from tests.unit.cluster.sandbox_kit import needs_sandbox

pytestmark = needs_sandbox
GRADING = sys.modules["cluster.sandbox.grade"]
MUST = dict.fromkeys(GRADING._MUST_ESCAPE, True)
HARD = {"secret_file", "tcp_loopback", "unix_path", "process_mem", "ptrace", "session_key", "sysctl_write", "host_etc"}


def usual(argv: tuple[str, ...]) -> SandboxSpec:
    return SandboxSpec(argv=argv, ro_binds=python_binds(), uid=64011)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grade") / "control.json"


MARKERS: list[str] = []


@pytest.fixture(scope="module")
def first(cache: Path) -> Grade:
    real = GRADING.decoys

    @contextlib.contextmanager
    def recorded(uid: int) -> Iterator[dict[str, Any]]:
        with real(uid) as description:
            MARKERS.append(description["marker"])
            yield description

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRADING, "decoys", recorded)
        return grade(usual, cache)


def test_every_escape_is_stopped_here(first: Grade) -> None:
    escaped = [name for name, held in first.rows.items() if not held and name not in GRADING._RESOURCES]
    assert escaped == []
    assert set(first.rows) >= HARD
    assert len(first.rows) >= 35


def test_the_letter_is_a_with_control_groups_and_b_without(first: Grade) -> None:
    grouped = {"memory", "pids"} <= {name for hierarchy in find_hierarchies() for name in hierarchy.controllers}
    assert first.letter == ("A" if grouped else "B"), first.reason


def test_the_control_gets_through_where_the_sandbox_held(first: Grade) -> None:
    assert {name for name, escaped in first.control.items() if escaped} >= set(MUST)
    if os.geteuid() == 0:
        assert {name for name, escaped in first.control.items() if escaped} >= HARD


def test_a_grade_carries_what_a_record_needs(first: Grade) -> None:
    assert first.probe_hash == probe_hash()
    assert first.bwrap_version
    assert first.kernel == os.uname().release
    assert Grade.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_the_probe_leaves_nothing_behind(first: Grade) -> None:
    assert first.letter in ("A", "B")
    assert len(MARKERS) == 1
    assert processes_with(MARKERS[0]) == []
    for folder in ("/dev/shm", "/usr", sysconfig.get_path("purelib")):
        assert not list(Path(folder).glob(f"{MARKERS[0]}*"))


def test_the_control_runs_once_per_boot(first: Grade, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GRADING, "_control", lambda description: pytest.fail("ran again"))
    again = grade(usual, cache)
    assert (again.letter, again.control) == (first.letter, first.control)
    cache.write_text(cache.read_text().replace(GRADING.probe_hash(), "0" * 64))
    monkeypatch.setattr(GRADING, "_control", lambda description: MUST)
    assert grade(usual, cache).control == MUST


def test_a_cache_that_cannot_be_written_changes_no_grade(first: Grade, tmp_path: Path) -> None:
    found = grade(usual, tmp_path / "missing/control.json")
    assert (found.letter, found.reason) == (first.letter, first.reason)


def test_without_control_groups_the_grade_is_b(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.sandbox.limits.find_hierarchies", lambda: ())
    monkeypatch.setattr(GRADING, "find_hierarchies", lambda: ())
    found = grade(usual, cache)
    assert (found.letter, found.reason) == ("B", "weak limits: control_group")


def test_a_sandbox_with_the_hosts_network_is_a_c(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = command._namespace_args

    def shared(uid: int, nested: bool) -> list[str]:
        return [word for word in real(uid, nested) if word != "--unshare-net"]

    monkeypatch.setattr(command, "_namespace_args", shared)
    found = grade(usual, cache)
    assert found.letter == "C"
    assert not found.rows["tcp_loopback"]
    assert not found.rows["unix_abstract"]
    assert "tcp_loopback" in found.reason


def test_a_sandbox_without_a_system_call_filter_is_a_c(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_all = bytes.fromhex("060000000000ff7f")
    monkeypatch.setattr(seccomp, "program", lambda **_: allow_all)
    found = grade(usual, cache)
    assert found.letter == "C"
    assert not found.rows["io_uring"]


def test_a_probe_that_cannot_run_is_a_c(cache: Path) -> None:
    found = grade(lambda argv: SandboxSpec(argv=("true",)), cache)
    assert found.letter == "C"
    assert "no answer" in found.reason


def test_a_sandbox_that_cannot_start_is_a_c(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.sandbox.process.find_bwrap", lambda: None)
    found = grade(usual, cache)
    assert found.letter == "C"
    assert "bubblewrap" in found.reason


@pytest.mark.parametrize(("rows", "control", "letter", "word"), [
    ({"memory": True}, {**MUST, "signal": False}, "C", "proves nothing"),
    ({"netlink": False}, MUST, "C", "got out: netlink"),
    ({}, MUST, "B", "control_group"),
    (dict.fromkeys(GRADING._RESOURCES, True), MUST, "A", ""),
])  # fmt: skip
def test_the_letter_follows_from_the_rows(
    rows: dict[str, bool], control: dict[str, bool], letter: str, word: str
) -> None:
    found: tuple[Any, str] = GRADING._letter(rows, control)
    assert found[0] == letter
    assert word in found[1]
