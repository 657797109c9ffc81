"""What a step leaves for the next one: nothing in a worker that is used twice, and the trial that says so can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.sandbox import handover
from gpu_pool.handover import check_handover, judge
from tests.unit.cluster.sandbox_kit import needs_sandbox
from tests.unit.gpu_pool.worker_bench import Bench

pytestmark = needs_sandbox


@pytest.mark.parametrize("reusable", [True, False])
def test_the_trial_finds_nothing_where_steps_live_apart_and_something_where_they_do_not(
    tmp_path: Path, reusable: bool
) -> None:
    bench = Bench(tmp_path, reusable)
    try:
        lane = bench.do(bench.ready())
        assert lane.reusable is reusable
        rows = bench.do(check_handover(lane))
    finally:
        bench.close()
    failed = {name for name, held in rows.items() if not held}
    if reusable:
        assert len(rows) > 30
        assert not failed
    else:
        assert {"handover_sysv_memory", "handover_posix_queue", "reach_limits", "reach_niceness"} <= failed


def test_the_control_outside_finds_what_it_left() -> None:
    order = json.dumps({"mode": "both", "marker": "aar-00112233445566"}).encode()
    done = subprocess.run([sys.executable, "-I", "-S", "-B", handover.__file__], input=order, capture_output=True)
    answer = json.loads(done.stdout)
    assert {"sysv_memory", "sysv_semaphore", "sysv_queue", "process", "abstract_socket", "file_tmp"} <= {
        name for name, found in answer["found"].items() if found
    }


def said(**changes: Any) -> dict[str, Any]:
    found = {"sysv_memory": False}
    return {
        "found": found,
        "state": {"niceness": "0"},
        "left": {"sysv_memory": True},
        "reached": {"limits": False},
    } | changes


def test_each_difference_is_a_row() -> None:
    assert all(judge(said(), said(), said()).values())
    assert judge(said(), said(), said(found={"sysv_memory": True}))["handover_sysv_memory"] is False
    assert judge(said(), said(), said(state={"niceness": "5"}))["handover_niceness"] is False
    assert judge(said(), said(reached={"limits": True}), said())["reach_limits"] is False


def test_a_trial_that_did_not_run_proves_nothing() -> None:
    for silent in range(3):
        answers = [said() if n != silent else {} for n in range(3)]
        assert judge(*answers) == {"handover": False}
    assert judge(said(), said(left={"sysv_memory": False}), said()) == {"handover": False}
