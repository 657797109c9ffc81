"""The fallback without namespaces: the contract of a sandbox, and its grade, forced here beside the better kind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.sandbox import (
    MIB,
    Bind,
    Limits,
    Sandboxed,
    SandboxSpec,
    SpecError,
    confinable,
    confine,
    readback,
    spawn,
)
from cluster.sandbox.decoys import processes_with
from tests.unit.cluster.sandbox_kit import (
    SMALL,
    as_nobody,
    eventually,
    marker,
    needs_root,
    needs_sandbox,
    read_line,
    shell_spec,
)

needs_landlock = pytest.mark.skipif(not confinable(), reason="Landlock 6 (Linux 6.12) is not there")
KINDS = [pytest.param(spawn, marks=needs_sandbox), pytest.param(confine, marks=needs_landlock)]
Start = Callable[..., Sandboxed]
both = pytest.mark.parametrize("start", KINDS, ids=["namespaces", "landlock"])
DAEMON = "setsid sh -c 'exec sleep 300' $1 >/dev/null 2>&1 & setsid -f sh -c 'sleep 300; :' $1; echo ready; cat"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that the sandbox's uid may enter."""
    path = Path(tempfile.mkdtemp(prefix="aar-contract-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def ran(start: Start, spec: SandboxSpec, data: bytes | None = None) -> tuple[int, str, str]:
    with start(spec) as sandbox:
        out, err = sandbox.communicate(data, timeout=20)
        return sandbox.wait(), out.decode(), err.decode()


@both
def test_streams_status_and_signals(start: Start) -> None:
    assert ran(start, shell_spec("cat; echo no >&2; exit 7"), b"hello") == (7, "hello", "no\n")
    assert ran(start, shell_spec("kill -SEGV $$"))[0] == 128 + signal.SIGSEGV


@both
def test_the_environment_is_neutral_and_home_can_be_written(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-key")
    code, out, err = ran(start, shell_spec("env; cd; echo x > file && cat file && cat $TMPDIR/file", env={"MINE": "1"}))
    assert "secret-key" not in out
    assert "MINE=1" in out
    assert "\nx\n" in out, (code, out, err)


@both
def test_files_cross_in_both_directions_and_others_do_not(start: Start, shared: Path) -> None:
    for name in ("in", "out", "other"):
        (shared / name).mkdir()
        (shared / name / "file").write_text(name)
    script = f"cat {shared}/in/file; echo made > {shared}/out/new; echo x > {shared}/in/new; cat {shared}/other/file"
    spec = shell_spec(
        script,
        ro_binds=(Bind(str(shared / "in"), str(shared / "in")),),
        rw_binds=(Bind(str(shared / "out"), str(shared / "out")),),
    )
    code, out, _ = ran(start, spec)
    assert (code != 0, out) == (True, "in")
    assert readback(shared / "out", "new", 10) == b"made\n"
    assert not (shared / "in" / "new").exists()


@both
def test_descriptors_are_three_and_four_and_no_other(start: Start) -> None:
    read_end, write_end = os.pipe()
    with start(
        shell_spec("echo hello >&3; ls /dev/fd/ 2>/dev/null | wc -l; : 2>/dev/null <&4", pass_fds=(write_end,))
    ) as box:
        os.close(write_end)
        assert os.read(read_end, 10) == b"hello\n"
        box.wait(20)
    os.close(read_end)


@both
def test_kill_ends_everything(start: Start) -> None:
    word = marker()
    with start(shell_spec(DAEMON.replace("$1", word))) as sandbox:
        assert read_line(sandbox) == "ready"
        assert eventually(lambda: len(processes_with(word)) >= 1)
        sandbox.kill()
        assert processes_with(word) == []
        sandbox.kill()


@both
def test_a_command_that_ends_takes_its_daemons_along(start: Start) -> None:
    word = marker()
    with start(shell_spec(DAEMON.replace("$1", word).replace("; cat", ""))) as sandbox:
        assert read_line(sandbox) == "ready"
        assert sandbox.wait(20) == 0
        assert processes_with(word) == []


@both
def test_it_dies_with_the_process_that_started_it(start: Start) -> None:
    word = marker()
    name = "confine" if start is confine else "spawn"
    program = (
        f"import sys\nfrom cluster.sandbox import *\n"
        f"box = {name}(SandboxSpec(argv=('sh', '-c', sys.argv[1])))\n"
        "while box.stdout.read(1) not in (b'', b'\\n'): pass\nprint('up', flush=True)\nsys.stdin.read()\n"
    )
    script = DAEMON.replace("$1", word)
    with subprocess.Popen([sys.executable, "-c", program, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          cwd=Path(__file__).parents[3]) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert eventually(lambda: bool(processes_with(word)))
        parent.kill()
        parent.wait()
    # the parent's own command line held the word as well
    assert eventually(lambda: processes_with(word) == [], 10)


@both
def test_processes_and_files_are_bounded(start: Start) -> None:
    limits = Limits(memory_bytes=192 * MIB, processes=24, file_bytes=1 * MIB, open_files=64)
    code, out, _ = ran(
        start, shell_spec("cd; dd if=/dev/zero of=x bs=65536 count=64 2>/dev/null; wc -c < x", limits=limits)
    )
    assert (code, out.strip()) == (0, str(1 * MIB))


@both
def test_memory_above_the_limit_is_ended(start: Start) -> None:
    with start(shell_spec("head -c 400m /dev/zero | tail > /dev/null; echo $?", limits=SMALL)) as sandbox:
        out, _ = sandbox.communicate(timeout=60)
        assert sandbox.oom_killed() or out.strip() != b"0"


@both
def test_a_program_that_is_not_there_ends_with_a_message(start: Start) -> None:
    code, _, err = ran(start, SandboxSpec(argv=("/usr/bin/not-there",), limits=SMALL))
    assert code != 0
    assert "No such file" in err


@needs_landlock
def test_there_is_no_socket_at_all() -> None:
    code, out, err = ran(confine, shell_spec("cat < /dev/tcp/127.0.0.1/1", limits=SMALL))
    assert code != 0, (out, err)
    bash = SandboxSpec(argv=("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/1"), limits=SMALL)
    assert "Operation not permitted" in ran(confine, bash)[2]


@needs_landlock
def test_a_bind_that_would_have_to_move_is_refused(shared: Path) -> None:
    with pytest.raises(SpecError, match="cannot be seen at '/in'"):
        confine(shell_spec("true", ro_binds=(Bind(str(shared), "/in"),)))


@needs_landlock
@needs_root
def test_the_host_sees_it_under_its_own_uid() -> None:
    with confine(shell_spec("echo up; cat", uid=64007)) as sandbox:
        read_line(sandbox)
        assert "Uid:\t64007\t64007\t64007\t64007" in Path(f"/proc/{sandbox.init_pid}/status").read_text()


PROGRAM = """
import json, os, sys
from cluster.sandbox import *
spec = lambda argv: SandboxSpec(argv=argv, ro_binds=tuple(Bind(b.inside, b.inside) for b in python_binds()))
found = grade(spec, start=confine)
print(json.dumps({"letter": found.letter, "reason": found.reason, "rows": dict(found.rows),
                  "control": dict(found.control), "uid": os.getuid()}))
"""


@pytest.fixture(scope="module")
def graded() -> dict[str, Any]:
    """The grade that uid 65534 gives to it."""
    return as_nobody(PROGRAM, timeout=120)


@needs_landlock
@needs_root
def test_nothing_gets_out_and_the_grade_is_b_at_most(graded: dict[str, Any]) -> None:
    assert graded["uid"] == 65534
    resources = {"control_group", "memory", "processes", "tmp_size", "shm_size", "file_size"}
    assert [name for name, held in graded["rows"].items() if not held and name not in resources] == []
    assert graded["letter"] == "B", graded["reason"]
    assert {"secret_file", "tcp_loopback", "signal", "processes_visible", "daemon"} <= {
        name for name, escaped in graded["control"].items() if escaped
    }
