"""Whether a warm worker hands nothing from one step to the next, tried before it is used twice.

Three steps as three tenants would run them: the first says how it finds itself, the second leaves and changes all that
it can, the third must find itself as the first did. Rows are True where the worker held, as in `cluster.sandbox.grade`.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.sandbox import handover
from cluster.trees import remove_tree
from gpu_pool.leases import Step
from gpu_pool.sandbox_worker import SandboxWorker

_SECONDS = 60.0


async def check_handover(worker: SandboxWorker) -> dict[str, bool]:
    """Rows of a started worker, by what was tried; all of them False is a worker in which the trial did not run."""
    folder = Path(tempfile.mkdtemp(prefix="aar-handover-"))
    marker = f"aar-{secrets.token_hex(7)}"
    try:
        first, second, third = [await _step(worker, folder, mode, marker) for mode in ("find", "leave", "find")]
    finally:
        remove_tree(folder)
    return judge(first, second, third)


def judge(first: Mapping[str, Any], second: Mapping[str, Any], third: Mapping[str, Any]) -> dict[str, bool]:
    """Rows from what the three steps said; a step that said nothing proves nothing."""
    if not (first and second and third) or not any(second["left"].values()) or any(first["found"].values()):
        return {"handover": False}
    rows = {f"handover_{name}": not found for name, found in third["found"].items()}
    rows |= {f"handover_{name}": value == third["state"].get(name) for name, value in first["state"].items()}
    return rows | {f"reach_{name}": not got for name, got in second["reached"].items()}


async def _step(worker: SandboxWorker, folder: Path, mode: str, marker: str) -> dict[str, Any]:
    """What a step said; empty when it said nothing."""
    code = folder / secrets.token_hex(4)
    code.mkdir()
    source = Path(handover.__file__).read_text(encoding="utf-8")
    (code / "method.py").write_text(handover.method_source(source), encoding="utf-8")
    (code / "order.json").write_text(json.dumps({"mode": mode, "marker": marker}), encoding="utf-8")
    step = Step("handover", "method", {"code": str(code)}, {"seed": 1}, {}, _SECONDS)
    result = await worker.run(step, {"code": code}, _SECONDS, 1, folder / f"{code.name}-out", lambda _: None)
    lines = Path(result.log).read_text(encoding="utf-8", errors="replace").split("\n") if result.log else []
    said = next((line for line in lines if line.startswith(f"{marker} ")), "")
    return dict(json.loads(said.partition(" ")[2])) if said else {}
