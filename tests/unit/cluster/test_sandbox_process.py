from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.sandbox import Bind, SandboxError, SandboxSpec, python_binds, spawn
from cluster.sandbox.decoys import processes_with
from cluster.sandbox.limits import find_hierarchies
from tests.unit.cluster.sandbox_kit import eventually, marker, needs_root, needs_sandbox, python_spec, read_line, run
from tests.unit.cluster.sandbox_kit import shell_spec as sh

pytestmark = needs_sandbox

DAEMON = "setsid sh -c 'exec sleep 300' $1 >/dev/null 2>&1 & setsid -f sh -c 'sleep 300; :' $1; echo ready; cat"


def groups_of_this_process() -> list[Path]:
    return [path for hierarchy in find_hierarchies() for path in hierarchy.base.glob(f"aar-{os.getpid()}-*")]


def test_a_command_reads_stdin_writes_both_streams_and_gives_its_status() -> None:
    assert run(sh("cat; echo no >&2; exit 7"), b"hello") == (7, "hello", "no\n")


def test_a_command_killed_by_a_signal_says_which() -> None:
    assert run(sh("kill -SEGV $$"))[0] == 128 + signal.SIGSEGV


def test_nothing_of_the_callers_environment_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-key")
    _, out, _ = run(sh("cat /proc/*/environ | tr '\\0' '\\n'; env", env={"MINE": "yes"}))
    assert "secret-key" not in out
    assert "MINE=yes" in out


def test_the_command_line_inside_names_no_path_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    _, out, _ = run(sh("cat /proc/1/cmdline", ro_binds=(Bind(str(tmp_path / "data"), "/in"),)))
    assert "--args" in out
    assert str(tmp_path) not in out


def test_the_sandboxed_interpreter_is_this_environment() -> None:
    spec = SandboxSpec(argv=(sys.executable, "-I", "-B", "-c", "import numpy, sys; print(sys.prefix)"),
                       ro_binds=python_binds())  # fmt: skip
    assert run(spec) == (0, f"{sys.prefix}\n", "")


def test_files_cross_in_both_directions_while_the_sandbox_runs(tmp_path: Path) -> None:
    inward, outward = tmp_path / "in", tmp_path / "out"
    inward.mkdir()
    outward.mkdir()
    script = "echo started; read line; cp /in/late /out/copy; mkdir /out/dir; touch /in/x || echo refused; cat"
    spec = sh(script, ro_binds=(Bind(str(inward), "/in"),), rw_binds=(Bind(str(outward), "/out"),))
    with spawn(spec) as sandbox:
        assert read_line(sandbox) == "started"
        (inward / "late").write_text("came later")
        assert sandbox.stdin is not None
        sandbox.stdin.write(b"go\n")
        assert read_line(sandbox) == "refused"
        assert (outward / "copy").read_text() == "came later"


@needs_root
def test_a_bind_below_a_directory_that_only_root_may_enter_works(tmp_path: Path) -> None:
    hidden = tmp_path / "private"
    (hidden / "data").mkdir(parents=True)
    (hidden / "data/file").write_text("seen")
    (hidden / "single").write_text("one")
    hidden.chmod(0o700)
    binds = (Bind(str(hidden / "data"), "/in"), Bind(str(hidden / "single"), "/single"))
    assert run(sh("cat /in/file /single", ro_binds=binds)) == (0, "seenone", "")


@needs_root
def test_the_host_sees_the_sandbox_under_its_own_uid() -> None:
    with spawn(sh("echo up; cat", uid=64007)) as sandbox:
        read_line(sandbox)
        for pid in (sandbox.pid, sandbox.init_pid):
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Uid:\t64007\t64007\t64007\t64007" in status
            assert "Groups:\t \n" in status


def test_passed_descriptors_are_three_and_four() -> None:
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with spawn(sh("read line <&3; echo got $line >&4", pass_fds=(to_read, from_write))) as sandbox:
        os.close(to_read)
        os.close(from_write)
        os.write(to_write, b"frame\n")
        assert os.read(from_read, 100) == b"got frame\n"
        assert sandbox.wait(10) == 0
        assert os.read(from_read, 100) == b""
    os.close(to_write)
    os.close(from_read)


def test_no_other_descriptor_is_inside() -> None:
    secret = os.memfd_create("secret", 0)
    os.set_inheritable(secret, True)
    _, out, _ = run(sh("ls /proc/1/fd; for fd in /proc/$$/fd/*; do echo ${fd##*/}; done"))
    os.close(secret)
    assert {int(word) for word in out.split()} <= {0, 1, 2, 3, 4, 5, 10}
    assert "secret" not in run(sh("ls -l /proc/*/fd"))[1]


def test_kill_ends_everything_and_leaves_no_group() -> None:
    word = marker()
    with spawn(sh(DAEMON, word)) as sandbox:
        read_line(sandbox)
        assert eventually(lambda: len(processes_with(word)) >= 3)
        assert not find_hierarchies() or groups_of_this_process()
        sandbox.kill()
        assert processes_with(word) == []
        assert groups_of_this_process() == []
        assert sandbox.poll() is not None
        sandbox.kill()


def test_a_command_that_ends_takes_its_daemons_along() -> None:
    word = marker()
    sandbox = spawn(sh(DAEMON, word))
    out, _ = sandbox.communicate(b"", timeout=10)
    assert out == b"ready\n"
    assert sandbox.returncode == 0
    assert processes_with(word) == []
    assert groups_of_this_process() == []


def test_killing_the_pid_that_was_started_kills_the_tree() -> None:
    word = marker()
    with spawn(sh(DAEMON, word)) as sandbox:
        read_line(sandbox)
        os.kill(sandbox.pid, signal.SIGKILL)
        assert eventually(lambda: processes_with(word) == [])
        assert sandbox.wait(5) == -signal.SIGKILL


def test_the_sandbox_dies_with_its_parent() -> None:
    word = marker()
    program = ("import sys, time\nfrom cluster.sandbox import *\n"
               "s = spawn(SandboxSpec(argv=('sh', '-c', 'echo up; sleep 300', sys.argv[1])))\n"
               "print(s.stdout.read(3).decode(), flush=True)\ntime.sleep(300)\n")  # fmt: skip
    root = str(Path(__file__).parents[3])
    with subprocess.Popen([sys.executable, "-c", program, word], cwd=root, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": root}) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert len(processes_with(word)) >= 2
        parent.kill()
        parent.wait()
        assert eventually(lambda: processes_with(word) == [])


def test_the_sandbox_outlives_the_thread_that_asked_for_it() -> None:
    made = []
    thread = threading.Thread(target=lambda: made.append(spawn(sh("echo up; cat"))))
    thread.start()
    thread.join()
    with made[0] as sandbox:
        assert read_line(sandbox) == "up"
        with pytest.raises(subprocess.TimeoutExpired):
            sandbox.wait(0.2)


def test_threads_may_start_sandboxes_at_once() -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: run(sh(f"echo {number}")), range(6)))
    assert answers == [(0, f"{number}\n", "") for number in range(6)]


def test_one_thread_may_kill_what_another_waits_for() -> None:
    with spawn(sh("echo up; cat")) as sandbox, ThreadPoolExecutor(1) as pool:
        read_line(sandbox)
        waiting = pool.submit(sandbox.wait)
        sandbox.kill()
        assert waiting.result(10) in (-9, 137)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="nowhere"):
        spawn(sh("true", ro_binds=(Bind(str(tmp_path / "nowhere"), "/in"),)))
    assert groups_of_this_process() == []


@needs_root
def test_a_source_that_the_sandboxs_uid_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(SandboxError, match=r"closed: uid 64001 may not enter it \(mode 0700\)"):
        spawn(sh("true", ro_binds=(Bind(str(tmp_path / "closed"), "/in"),)))


def test_a_writable_source_must_be_a_directory_and_no_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(SandboxError, match=name):
            spawn(sh("true", rw_binds=(Bind(str(tmp_path / name), "/out"),)))


def test_a_program_that_is_not_there_ends_with_a_message() -> None:
    status, _, err = run(SandboxSpec(argv=("/no/such/program",)))
    assert status == 1
    assert "/no/such/program" in err


NETWORK = """
import socket
print([line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line])
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname())
print('own')
try:
    socket.create_connection(('192.0.2.1', 80), 2)
except OSError as error:
    print(error.errno)
"""


def test_there_is_no_network_but_an_own_loopback() -> None:
    assert run(python_spec(NETWORK)) == (0, "['lo']\nown\n101\n", "")


def test_system_and_root_are_read_only_and_the_tmpfs_are_sized() -> None:
    script = ("for d in / /usr /dev /proc/sys/kernel; do touch $d/x 2>/dev/null && echo wrote $d; done; "
              "for d in /tmp /dev/shm /ws; do head -c 3000000 /dev/zero > $d/x 2>/dev/null && echo filled $d; done; "
              "ls -s --block-size=1 /tmp/x /dev/shm/x /ws/x | cut -d' ' -f1")  # fmt: skip
    status, out, _ = run(sh(script, tmp_bytes=1 << 20, shm_bytes=1 << 20, ws_bytes=1 << 20))
    assert (status, out) == (0, f"{1 << 20}\n" * 3)


def test_streams_may_go_to_files(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, spawn(sh("echo line"), stdout=log, stderr=subprocess.STDOUT) as sandbox:
        assert sandbox.wait(10) == 0
    assert (tmp_path / "log").read_text() == "line\n"


def test_nothing_is_left_of_many_short_sandboxes() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        with contextlib.suppress(subprocess.TimeoutExpired), spawn(sh("cat")) as sandbox:
            sandbox.wait(0.0)
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1
    assert groups_of_this_process() == []
