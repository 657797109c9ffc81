"""Bad methods in a real sandbox: each ends with a clear status, and the next step finds a clean worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.sandbox import Sandboxed
from cluster.sandbox.watch import tree
from gpu_pool.sandbox_worker import LOG_BYTES
from gpu_pool.scratch import Scratch, sweep
from tests.unit.gpu_pool.worker_bench import Bench

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "apart"])
def bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("lane"), request.param)
    yield bench
    bench.close()


def test_a_syntax_error_is_named_with_its_line(bench: Bench) -> None:
    result = bench.run("def train(run):\n    return (\n")
    assert result.status == "error"
    assert "method.py, line 2" in result.error


def test_a_method_without_train_is_refused(bench: Bench) -> None:
    result = bench.run("x = 1\n")
    assert result.status == "error"
    assert "train" in result.error


def test_a_method_that_never_returns_ends_at_its_deadline_and_the_lane_survives(bench: Bench) -> None:
    bench.do(bench.ready())
    result = bench.run("while True: pass", seconds=1.0)
    assert result.status == "timeout"
    assert result.seconds < 4
    assert bench.worker is not None
    assert bench.worker.alive


def test_a_method_that_exits_without_a_result_is_a_crash(bench: Bench) -> None:
    result = bench.run("import os\nos._exit(0)")
    assert result.status == "crashed"


def test_a_method_that_eats_memory_is_ended_as_memory(bench: Bench) -> None:
    result = bench.run("x = []\nwhile True: x.append(bytearray(b'1' * (64 << 20)))")
    assert result.status == "memory"
    assert "1024 MiB" in result.error


def test_a_fork_bomb_ends_and_the_next_step_runs(bench: Bench) -> None:
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n"
    assert bench.run(bomb, seconds=1.0).status in ("timeout", "crashed")
    assert "train" in bench.run("x = 1\n").error


def test_a_method_may_not_start_programs(bench: Bench) -> None:
    result = bench.run("import subprocess\nsubprocess.run(['/bin/true'])")
    assert result.status == "error"
    assert "PermissionError" in result.error


def test_a_hundred_megabytes_of_output_are_cut_in_the_middle(bench: Bench) -> None:
    source = (
        "import sys\nprint('first')\nfor _ in range(100): print('x' * 1_000_000)\nprint('last')\nsys.stdout.flush()\n"
    )
    result = bench.run(source)
    log = Path(result.log).read_bytes()
    assert log.startswith(b"first")
    assert log.rstrip().endswith(b"last")
    assert b"bytes left out" in log
    assert len(log) < LOG_BYTES + (1 << 19)


def test_a_method_that_fills_its_output_is_stopped(bench: Bench) -> None:
    result = bench.run("f = open('/out/big', 'wb')\nwhile True: f.write(b'1' * (1 << 20))")
    assert result.status == "bad_output"


def test_an_output_that_is_a_link_is_not_followed(bench: Bench) -> None:
    source = (
        "import os\n"
        "from gpu_pool.weak_to_strong import entrypoints\n"
        "class Fake:\n"
        "  threads = 1\n"
        "  def save(self, path): os.symlink('/etc/hostname', path)\n"
        "  @staticmethod\n"
        "  def from_dir(*_): return Fake()\n"
        "entrypoints.Student = entrypoints.MethodRun = Fake\n"
        "def train(run): return Fake()\n"
    )
    result = bench.run(source, outputs={"student.safetensors": 1 << 20})
    assert result.status == "bad_output"
    assert result.outputs == {}


def test_nothing_of_one_step_is_left_for_the_next(bench: Bench) -> None:
    leave = (
        "import os\nopen('/tmp/mark', 'w').write('x')\nopen('/dev/shm/mark', 'w').write('x')\n"
        "if os.fork() == 0:\n  import time\n  os.setsid()\n  time.sleep(600)\n"
    )
    bench.run(leave)
    look = (
        "import os\nfound = [p for p in ('/tmp/mark', '/dev/shm/mark', '/out/mark', '/ws/mark') if os.path.exists(p)]\n"
        "pids = [p for p in os.listdir('/proc') if p.isdigit()]\n"
        "raise RuntimeError(f'found {found} processes {len(pids)}')"
    )
    assert f"found [] processes {1 if bench.reusable else 3}" in bench.run(look).error


def test_a_step_sees_neither_the_generators_nor_the_offices(bench: Bench) -> None:
    look = (
        "import importlib.util as u\n"
        "names = ['gpu_pool.weak_to_strong.domains', 'actors', 'cluster.store', 'forum_actor']\n"
        "seen = []\n"
        "for name in names:\n"
        "  try:\n    seen += [name] if u.find_spec(name) else []\n"
        "  except ModuleNotFoundError: pass\n"
        "raise RuntimeError(f'seen {seen}')"
    )
    assert "seen []" in bench.run(look).error


def test_a_child_cannot_read_the_warm_process(bench: Bench) -> None:
    look = (
        "import os\ntried = []\n"
        "for path in (f'/proc/{os.getppid()}/mem', f'/proc/{os.getppid()}/environ'):\n"
        "  try:\n    open(path, 'rb').read(1)\n    tried.append(path)\n"
        "  except OSError: pass\n"
        "try:\n  tried += os.listdir(f'/proc/{os.getppid()}/fd')\n"
        "except OSError: pass\n"
        "raise RuntimeError(f'got {tried}')"
    )
    assert "got []" in bench.run(look).error


def test_an_aborted_step_ends_soon(bench: Bench) -> None:
    worker = bench.do(bench.ready())
    bench.loop.call_later(0.5, worker.abort)
    result = bench.run("import time\ntime.sleep(60)", seconds=60)
    assert result.status == "skipped"
    assert result.seconds < 5
    assert "train" in bench.run("x = 1\n").error


def test_a_sandbox_that_is_killed_without_need_of_memory_is_a_crash(bench: Bench) -> None:
    worker = bench.do(bench.ready())
    box = worker._box
    assert box is not None
    bench.loop.call_later(0.5, box.kill)
    result = bench.run("import time\ntime.sleep(60)", seconds=30)
    assert (result.status, result.error) == ("crashed", "the sandbox died")


def test_an_output_directory_without_permissions_ends_the_step(bench: Bench) -> None:
    result = bench.run("import os, time\nos.makedirs('/out/a/b')\nos.chmod('/out/a', 0)\ntime.sleep(3)\n", seconds=20)
    assert result.status in ("error", "bad_output")
    assert "train" in bench.run("x = 1\n").error


def test_scratch_of_a_dead_owner_is_swept_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = Scratch()
    code = "import os, sys; from gpu_pool.scratch import Scratch; Scratch().folder('in'); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=ROOT, check=True)
    assert len(list(tmp_path.iterdir())) == 2
    assert sweep() == 1
    assert list(tmp_path.iterdir()) == [held.path]
    held.remove()
    assert not list(tmp_path.iterdir())


def test_a_stopped_zygote_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_pool.sandbox_worker.HEARTBEAT_S", 2.5)
    if bench.reusable:  # a step there does not know its pid; this process does
        worker = bench.do(bench.ready())
        box = worker._box
        assert isinstance(box, Sandboxed)
        zygote = next(pid for pid in tree(box.init_pid) if pid != box.init_pid)
        bench.loop.call_later(1.0, os.kill, zygote, signal.SIGSTOP)
        result = bench.run("import time\ntime.sleep(60)", seconds=30)
    else:
        result = bench.run("import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(60)", seconds=30)
    assert result.status == "crashed"
    assert result.seconds < 10
