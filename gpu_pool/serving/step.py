"""A model server as the step of a lease."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.clock import now_us
from gpu_pool.leases import Step, StepResult
from gpu_pool.serving.server import ModelServer


def first_start(directory: Path) -> int:
    """When the lease of this directory was first started, Unix microseconds; written down when it is new."""
    place, temporary = directory / "began", directory / ".began"
    if not place.exists():
        temporary.write_text(str(now_us()), encoding="ascii")
        temporary.replace(place)
    return int(place.read_text(encoding="ascii"))


async def serve_step(step: Step, server: ModelServer, seconds: float) -> StepResult:
    """Run `server` for at most `seconds`: "crashed" when it failed too often, else "ok" with its figures."""
    began = time.monotonic()
    end = await server.run(max(0.0, seconds))
    ready_s = server.state.ready_s
    metrics = {
        "reason": end.reason,
        "connections": end.connections,
        "answer_bytes": end.answer_bytes,
        "starts": end.starts,
    }
    failed = end.reason == "failed"
    return StepResult(
        step.name,
        "crashed" if failed else "ok",
        end.fault if failed else "",
        time.monotonic() - began,
        None if ready_s is None else ready_s * 1000,
        {},
        "",
        metrics,
    )
