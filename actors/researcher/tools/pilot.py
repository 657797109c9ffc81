"""Pilot runs: a method on a part of the public pool, on a small lease, looked at without labels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file

from actors.researcher.tools.base import Context, LongArgs, LongTool
from actors.researcher.tools.measures import label_free
from actors.researcher.tools.method_file import read_method
from actors.researcher.tools.pilot_data import ITEMS, TENSORS, PilotData, prepare, vector
from cluster.errors import Reason, RefusedError
from gpu_pool.leases import Job, LeaseRequest, LeaseResult, Step

PROBS_BYTES = 8 << 20
PREDICT_SHARE = 0.25
"""Share of the lease's time that is kept for the student's predictions."""
MAX_ERROR = 1500


class PilotArgs(LongArgs):
    """Arguments of `run_pilot`; what is left out is taken from the campaign's configuration."""

    path: str = Field(description="method file in the workspace")
    gpus: float | None = Field(None, ge=0.05, le=1, description="fraction of a GPU")
    seconds: float | None = Field(None, gt=0, le=7200, description="longest wall time, all of which is reserved")
    items: int | None = Field(None, ge=16, description="items to train on")


class RunPilot(LongTool[PilotArgs]):
    """Train a method on part of the public pool and measure its student on other items, without labels.

    Costs gpus x seconds that are really used; the worst case is reserved meanwhile. Returns status, train_seconds,
    agreement with the weak labels and with the strong model's prior, confidence, balance, and the error text of a
    method that failed. It never says how accurate a student is: submit does. With background=true it returns at once
    and you can go on; you are told of the result. Refused: over budget, a file that is missing, above 64 KiB or no
    method, a lease larger than any slot.
    """

    name = "run_pilot"
    arguments = PilotArgs

    async def plan(self, ctx: Context, args: PilotArgs, key: str) -> dict[str, Any]:
        """See the class."""
        text = read_method(ctx.workspace, args.path)
        runs = ctx.config.runs
        seed = stable_seed(ctx.config.seed, ctx.researcher)
        data = prepare(Path(ctx.public), ctx.workspace.private, args.items or runs.pilot_items, seed)
        code = _code_folder(ctx.workspace.private, text)
        request = LeaseRequest(
            key=key,
            account=f"{ctx.account}/gpu",
            kind="pilot",
            gpus=args.gpus or runs.pilot_gpus,
            seconds=args.seconds or runs.pilot_seconds,
            job=pilot_job(ctx, data, code, stable_seed(seed, key), args.seconds or runs.pilot_seconds),
            label=f"pilot {ctx.researcher} {Path(args.path).stem}"[:100],
            memory_bytes=ctx.config.pool.memory_bytes,
        )
        return {"request": request.to_dict(), "data": data.to_dict()}

    async def carry(self, ctx: Context, plan: dict[str, Any], key: str) -> dict[str, Any]:
        """See the class."""
        result = await ctx.scheduler.run(LeaseRequest.from_dict(plan["request"]))
        return read_outcome(result, PilotData.from_dict(plan["data"]))

    async def abandon(self, ctx: Context, key: str) -> None:
        """See the class."""
        await ctx.scheduler.cancel(key)


def pilot_job(ctx: Context, data: PilotData, code: Path, seed: int, seconds: float) -> Job:
    """The job: train, then predict the held-out items."""
    strong = ctx.task.get("strong_model")
    if not isinstance(strong, str):
        raise RefusedError(Reason.NO_TASK, "task.json names no strong_model")
    train_seconds = seconds * (1 - PREDICT_SHARE)
    inputs = {ITEMS: str(data.train / ITEMS), "code": str(code), "strong": strong}
    inputs.update({name: str(data.train / name) for name in TENSORS})
    params = {**ctx.task.get("protocol", {}), "seed": seed, "seconds": train_seconds * 0.9}
    held = {ITEMS: str(data.held / ITEMS), "student.safetensors": "@pilot-train/student.safetensors", "model": strong}
    student = {"student.safetensors": ctx.config.runs.student_mb << 20}
    return Job(
        (
            Step("pilot-train", "method", inputs, params, student, train_seconds),
            Step("pilot-predict", "predict", held, {}, {"probs.safetensors": PROBS_BYTES}, seconds * PREDICT_SHARE),
        )
    )


def read_outcome(result: LeaseResult, data: PilotData) -> dict[str, Any]:
    """What the researcher is told of a finished lease; a failed method is an outcome, not an error."""
    outcome: dict[str, Any] = {
        "status": result.status,
        "error": "",
        "n_train": data.n_train,
        "gpu_ms": result.gpu_ms,
        "seconds": round((result.ended_us - result.started_us) / 1e6, 2),
        "lease_id": result.lease_id,
        "sandbox_grade": result.sandbox_grade,
    }
    for step in result.steps:
        if step.name == "pilot-train":
            outcome["train_seconds"] = round(step.seconds, 2)
        if not step.ok and step.status != "skipped":
            return {**outcome, "status": step.status, "error": f"{step.name}: {step.error}"[:MAX_ERROR]}
    if result.status != "done" or not result.steps:
        return {**outcome, "status": "lost" if not result.steps else result.status, "error": "the lease did not finish"}
    try:
        probs = load_file(result.step("pilot-predict").outputs["probs.safetensors"])["probs"]
        weak, prior = vector(data.held / "weak.safetensors", "probs"), vector(data.held / "prior.safetensors", "prior")
    except (KeyError, OSError, SafetensorError) as error:
        return {**outcome, "status": "bad_output", "error": f"the student's predictions cannot be read: {error}"}
    if probs.shape != (data.n_held, 2) or not np.isfinite(probs).all():
        message = f"predictions have shape {probs.shape} or are not finite, expected ({data.n_held}, 2)"
        return {**outcome, "status": "bad_output", "error": message}
    return {**outcome, "status": "ok", **label_free(probs, weak, prior)}


def stable_seed(*parts: object) -> int:
    """A seed below 2^31 from any parts, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def _code_folder(private: Path, text: str) -> Path:
    """A directory named by its content with `method.py` in it, written whole or not at all."""
    data = text.encode("utf-8")
    folder = private / "code" / hashlib.sha256(data).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "method.py"
    if not target.exists():
        part = private / "code" / f".{folder.name}.part"
        part.write_bytes(data)
        part.chmod(0o644)
        part.replace(target)
    return folder
