"""Device binds on a machine that has GPUs; what is pure of them is in test_sandbox_spec.py."""

from __future__ import annotations

import sys

import pytest

from cluster.sandbox import MIB, Limits, SandboxSpec, gpu_minors, python_binds
from tests.unit.cluster.sandbox_kit import needs_sandbox, run

MINORS = gpu_minors()
pytestmark = [needs_sandbox, pytest.mark.gpu, pytest.mark.skipif(not MINORS, reason="there is no /dev/nvidiaN")]
LIMITS = Limits(memory_bytes=8192 * MIB, processes=256)
CANARY = """
import torch
held = torch.full((1 << 28,), 0x5A, dtype=torch.uint8, device='cuda')
torch.cuda.synchronize()
print(torch.cuda.device_count(), int(held[-1]))
"""
LOOK = """
import torch
found = torch.empty(1 << 28, dtype=torch.uint8, device='cuda')
print(int((found == 0x5A).sum()) > 1 << 20)
"""


def on_gpu(program: str) -> tuple[int, str, str]:
    argv = (sys.executable, "-I", "-B", "-c", program)
    return run(SandboxSpec(argv=argv, ro_binds=python_binds(), gpus=MINORS[:1], limits=LIMITS))


def test_a_sandbox_computes_on_its_own_device_and_sees_no_other() -> None:
    code, out, err = on_gpu(CANARY)
    assert (code, out.split()) == (0, ["1", "90"]), err
    listed = on_gpu("import os; print(sorted(n for n in os.listdir('/dev') if n.startswith('nvidia')))")[1]
    assert f"nvidia{MINORS[0]}'" in listed
    assert not any(f"nvidia{minor}'" in listed for minor in MINORS[1:])


def test_memory_of_the_device_does_not_carry_the_last_runs_answers() -> None:
    assert on_gpu(CANARY)[0] == 0
    assert on_gpu(LOOK)[1].strip() == "False"
