"""`ray.get_actor` imports an actor's module in every process that calls it; a heavy one stalls nine researchers."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "scipy", "pyarrow", "pandas", "numpy", "anthropic")


@pytest.mark.parametrize(
    "module",
    ["actors.evaluator.actor", "actors.gateway.actor", "actors.scheduler.actor", "forum_actor.actor", "gpu_pool.actor"],
)
def test_modules_of_called_actors_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
