"""A model server as the step of a lease."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.clock import Mark
from gpu_pool.leases import Step, StepResult
from gpu_pool.serving.server import ModelServer


def seconds_since_first_start(directory: Path) -> float:
    """Since the lease of this directory was first started; written down when it is new.

    A machine that was started anew meanwhile took the server down with it: that is a fault of the infrastructure, for
    which the lease does not pay, so it begins again.
    """
    place, temporary = directory / "began", directory / ".began"
    now = Mark.now()
    passed = _first_start(place).until(now) if place.exists() else None
    if passed is None:
        temporary.write_text(f"{now.boot} {now.us}", encoding="ascii")
        temporary.replace(place)
    return (passed or 0) / 1e6


def _first_start(place: Path) -> Mark:
    boot, _, us = place.read_text(encoding="ascii").partition(" ")
    return Mark(boot, int(us or 0))


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
