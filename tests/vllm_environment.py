"""The environment with the real vLLM, where there is one, and the skip where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "AAR_VLLM_PYTHON"


def vllm_python() -> Path | None:
    """The interpreter that the variable names, else that of `.venv-vllm`."""
    named = os.environ.get(VARIABLE)
    found = Path(named) if named else ROOT / ".venv-vllm/bin/python"
    return found if found.exists() else None


needs_vllm = pytest.mark.skipif(
    vllm_python() is None, reason=f"no environment with vLLM: make one with scripts/vllm_env.sh, or set {VARIABLE}"
)
