"""The path of a user who is not root, tried by a root that becomes nobody."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cluster.sandbox_kit import as_nobody, needs_root, needs_sandbox

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
def answer() -> dict[str, Any]:
    """What the program finds as uid 65534."""
    return as_nobody(PROGRAM, "{folder}/out", timeout=60)


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
