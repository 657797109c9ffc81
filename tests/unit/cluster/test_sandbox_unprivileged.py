"""The path of a user who is not root, tried by a root that becomes nobody."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cluster.sandbox_kit import needs_root, needs_sandbox

pytestmark = [needs_sandbox, needs_root]

PROGRAM = """
import json, os, subprocess, sys
from cluster.sandbox import *
from cluster.sandbox.decoys import processes_with
limits = Limits(memory_bytes=192 * MIB, processes=48)
os.mkdir(sys.argv[1])
inner = "import os; print(os.getuid()); open('/out/x', 'w').write('y')"
spec = SandboxSpec(argv=(sys.executable, "-I", "-S", "-c", inner),
                   ro_binds=python_binds(), rw_binds=(Bind(sys.argv[1], "/out"),), limits=limits)
with spawn(spec) as sandbox:
    out, err = sandbox.communicate(timeout=20)
word = f"nobody-{os.getpid()}"
with spawn(SandboxSpec(argv=("sh", "-c", "setsid -f sleep 300; echo up; setsid -f sh -c 'sleep 300; :' $0; cat", word),
                       limits=limits)) as sandbox:
    sandbox.stdout.read(1)
    before = len(processes_with(word))
    sandbox.kill()
    after = len(processes_with(word))
found = grade(lambda argv: SandboxSpec(argv=argv, ro_binds=python_binds()))
print(json.dumps({
    "uid": os.getuid(), "available": available().ok, "output": [out.decode(), err.decode()],
    "read": readback(sys.argv[1], "x", 10).decode(), "before": before, "after": after,
    "letter": found.letter, "reason": found.reason, "rows": found.rows,
}))
"""


@pytest.fixture(scope="module")
def answer() -> Iterator[dict[str, Any]]:
    """What the program finds as uid 65534, with an interpreter that a private mount puts where nobody can reach it."""
    folder = Path(tempfile.mkdtemp(prefix="aar-nobody-", dir="/tmp"))
    try:
        shutil.copytree(Path(__file__).parents[3] / "cluster", folder / "cluster")
        shutil.copy(Path(sysconfig.get_path("purelib")) / "pyseccomp.py", folder)
        folder.chmod(0o777)
        interpreter = Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve())
        script = 'mount --bind "$1" /mnt && cd / && exec setpriv --reuid 65534 --regid 65534 --clear-groups env -i "$@"'
        words = [f"PYTHONPATH={folder}", "PATH=/usr/bin:/bin", f"/mnt/{interpreter}", "-B", "-c", PROGRAM,
                 str(folder / "out")]  # fmt: skip
        script = f'base="$1"; shift; {script.replace("$1", "$base", 1)}'
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", sys.base_prefix, *words],
                              capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)
    finally:
        shutil.rmtree(folder)


def test_a_user_who_is_not_root_gets_a_working_sandbox(answer: dict[str, Any]) -> None:
    assert answer["uid"] == 65534
    assert answer["available"]
    assert answer["output"] == ["64001\n", ""]
    assert answer["read"] == "y"


def test_kill_is_whole_without_control_groups(answer: dict[str, Any]) -> None:
    assert answer["before"] >= 1
    assert answer["after"] == 0


def test_the_grade_is_b_and_nothing_got_out(answer: dict[str, Any]) -> None:
    assert (answer["letter"], answer["reason"]) == ("B", "weak limits: control_group")
    assert [name for name, held in answer["rows"].items() if not held] == ["control_group"]
