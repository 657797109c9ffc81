from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cluster.sandbox import MIB, Limits, Sandboxed, SandboxError, SandboxSpec, spawn
from cluster.sandbox import limits as control
from cluster.sandbox.limits import Group, Hierarchy, find_hierarchies, search
from tests.unit.cluster.sandbox_kit import needs_sandbox, python_spec, run
from tests.unit.cluster.sandbox_kit import shell_spec as sh

EAT = """
import mmap, os, sys, time
area = mmap.mmap(-1, 400 << 20)
for _ in range(400):
    area.write(b"x" * (1 << 20))
print("ate all", flush=True)
time.sleep(5)
"""
FORK = """
import os, signal
count = 0
try:
    while count < 300:
        if os.fork() == 0:
            signal.pause()
        count += 1
except OSError:
    pass
print(count)
"""
needs_groups = pytest.mark.skipif(
    {"memory", "pids", "cpu"} - {name for h in find_hierarchies() for name in h.controllers} != set(),
    reason="no writable control groups",
)


@pytest.fixture
def no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "find_hierarchies", lambda: ())


def eat(spec: SandboxSpec) -> tuple[Sandboxed, str]:
    sandbox = spawn(spec)
    out, _ = sandbox.communicate(timeout=20)
    return sandbox, out.decode()


@needs_sandbox
@needs_groups
def test_memory_above_the_limit_is_killed_and_told_from_a_crash() -> None:
    sandbox, out = eat(python_spec(EAT))
    assert out == ""
    assert sandbox.returncode == 137
    assert sandbox.oom_killed()
    peak = sandbox.peak_memory()
    assert peak is not None
    assert 150 * MIB < peak <= 192 * MIB


@needs_sandbox
@needs_groups
def test_a_crash_is_not_told_as_memory() -> None:
    with spawn(sh("kill -KILL $$")) as sandbox:
        assert sandbox.wait(10) == 137
        assert not sandbox.oom_killed()


@needs_sandbox
@needs_groups
def test_what_is_written_to_tmpfs_counts_as_memory() -> None:
    small = Limits(memory_bytes=32 * MIB, processes=16)
    sandbox, _ = eat(sh("head -c 60M /dev/zero > /tmp/x; echo wrote", limits=small))
    assert sandbox.oom_killed()


@needs_sandbox
@needs_groups
def test_processes_above_the_limit_are_refused() -> None:
    assert int(run(python_spec(FORK))[1]) < 48


@needs_sandbox
@needs_groups
def test_a_share_of_a_core_is_kept() -> None:
    program = "from time import *\nend = monotonic() + 1.0\nwhile monotonic() < end: pass\nprint(process_time())"
    _, out, _ = run(python_spec(program, limits=Limits(memory_bytes=128 * MIB, processes=16, cores=0.2)))
    assert float(out) < 0.5


@needs_sandbox
@pytest.mark.usefixtures("no_groups")
def test_without_groups_memory_is_watched_and_killed() -> None:
    sandbox, _ = eat(python_spec(EAT))
    assert sandbox.oom_killed()
    assert sandbox.returncode in (-9, 137)
    assert (sandbox.peak_memory() or 0) > 192 * MIB


@needs_sandbox
@pytest.mark.usefixtures("no_groups")
def test_without_groups_processes_are_counted_per_sandbox() -> None:
    with spawn(python_spec("import time; print(1, flush=True); time.sleep(9)")):
        assert 30 < int(run(python_spec(FORK))[1]) <= 48


@needs_sandbox
@pytest.mark.usefixtures("no_groups")
def test_without_groups_one_huge_mapping_is_refused() -> None:
    _, _, err = run(python_spec("import mmap; mmap.mmap(-1, 4 << 30)"))
    assert "Cannot allocate memory" in err


@needs_sandbox
def test_a_file_above_the_limit_is_refused() -> None:
    program = "f = open('/tmp/x', 'wb', buffering=0)\nfor _ in range(40): f.write(b'x' * (1 << 20))"
    _, _, err = run(python_spec(program, limits=Limits(memory_bytes=128 * MIB, processes=16, file_bytes=4 * MIB)))
    assert "File too large" in err


def fake_proc(tmp_path: Path, mountinfo: str, cgroup: str) -> Path:
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "mountinfo").write_text(mountinfo)
    (proc / "cgroup").write_text(cgroup)
    return tmp_path / "proc"


def test_the_own_group_is_tried_first_and_then_those_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = tmp_path / "cgroup"
    (mount / "user/session").mkdir(parents=True)
    line = f"30 20 0:26 / {mount} rw,relatime - cgroup2 cgroup2 rw"
    proc = fake_proc(tmp_path, f"1 1 0:1 / / rw - ext4 /dev/a rw\n{line}\n", "0::/user/session\n")
    tried = []

    def usable(base: Path, version: int, controllers: tuple[str, ...]) -> tuple[str, ...]:
        tried.append((base, version))
        return ("memory", "pids") if base == mount / "user" else ()

    monkeypatch.setattr(control, "_usable", usable)
    assert search(proc) == (Hierarchy(mount / "user", 2, ("memory", "pids")),)
    assert tried == [(mount / "user/session", 2), (mount / "user", 2)]


def test_a_mount_that_starts_below_the_root_of_its_hierarchy_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "memory"
    (mount / "inner").mkdir(parents=True)
    line = f"30 20 0:26 /docker/abc {mount} rw,relatime - cgroup cgroup rw,memory"
    proc = fake_proc(tmp_path, line, "5:memory:/docker/abc/inner\n4:cpu:/other\n")
    monkeypatch.setattr(control, "_usable", lambda base, version, controllers: controllers)
    assert search(proc) == (Hierarchy(mount / "inner", 1, ("memory",)),)


def test_a_machine_without_control_groups_has_no_place(tmp_path: Path) -> None:
    assert search(tmp_path / "nothing") == ()
    assert search(fake_proc(tmp_path, "1 1 0:1 / / rw - ext4 /dev/a rw\n", "0::/\n")) == ()


def test_version_two_files_are_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rmdir", lambda self: None)
    group = Group(Limits(memory_bytes=5, processes=6, cores=1.5), (Hierarchy(tmp_path, 2, ("memory", "pids", "cpu")),))
    folder = group.paths[0]
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {"memory.max": "5", "memory.swap.max": "0", "pids.max": "6", "cpu.max": "150000 100000"}
    (folder / "memory.events").write_text("low 0\nmax 4\noom 2\noom_kill 2\noom_group_kill 0\n")
    (folder / "memory.peak").write_text("12345\n")
    assert (group.oom_kills(), group.peak_memory()) == (2, 12345)
    assert group.limits("cpu")


def test_a_group_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="control group"):
        Group(Limits(), (Hierarchy(tmp_path / "missing", 2, ("memory",)),))


def test_a_group_without_hierarchies_limits_nothing() -> None:
    group = Group(Limits(), ())
    assert (group.limits("memory"), group.peak_memory(), group.oom_kills(), group.pids()) == (False, None, 0, set())
    assert group.kill_all(time.monotonic())
    group.remove()


@needs_groups
def test_groups_of_dead_owners_are_swept_and_those_of_living_ones_kept() -> None:
    base = find_hierarchies()[0].base
    dead, living = base / "aar-4194399-dead", base / f"aar-{os.getpid()}-living"
    dead.mkdir()
    living.mkdir()
    try:
        control._sweep(base)
        assert not dead.exists()
        assert living.exists()
    finally:
        living.rmdir()


def test_a_mount_point_with_a_form_feed_in_its_name_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    odd = "30 1 0:1 / /mnt/a\x0cb\u2028c rw - tmpfs none rw\n31 1 0:2 / /sys/fs/cgroup rw - cgroup2 none rw\n"
    (tmp_path / "self/mountinfo").write_text(odd, encoding="utf-8")
    (tmp_path / "self/cgroup").write_text("0::/a\x0b1:memory:/x\n", encoding="utf-8")
    assert [str(mount[2]) for mount in control._mounts(tmp_path)] == ["/sys/fs/cgroup"]
    assert control._own_paths(tmp_path) == {"": "/a\x0b1:memory:/x"}
