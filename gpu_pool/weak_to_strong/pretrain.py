"""Next-token pretraining of a small causal language model from files alone.

Needs no domain: a flat run of token ids, a model configuration, a tokenizer. Deterministic by seed on one thread.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional

from gpu_pool.weak_to_strong.errors import DeadlineError, ModelError, TrainingError
from gpu_pool.weak_to_strong.models import initial_lm, save_weights

WARMUP_STEPS = 50
MIN_LR_SHARE = 0.02
REPORT_EVERY = 50
Progress = Callable[[int, int, float], None]


class PretrainParams(BaseModel):
    """Parameters of one pretraining; `steps=0` gives the random initialisation of `seed`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(ge=0, le=10_000_000)
    batch: int = Field(default=64, ge=1)
    row: int = Field(default=32, ge=2, description="tokens of a training row")
    lr: float = Field(default=3e-3, gt=0)
    seed: int = 0
    weight_decay: float = Field(default=0.05, ge=0)
    seconds: float | None = Field(default=None, gt=0, description="wall time after which pretraining raises")


def pretrain_model(in_dir: Path, out_dir: Path, params: dict[str, Any], progress: Progress | None = None) -> float:
    """Pretrain from `in_dir` (corpus.safetensors, model_config.json, tokenizer.json, optionally prompt.json).

    Writes a model folder to `out_dir` and gives the mean loss of the last steps (nats per token; nan for 0 steps).
    Raises ModelError for missing or malformed inputs, TrainingError for a loss that is not finite, DeadlineError.
    """
    try:
        settings = PretrainParams.model_validate(params)
        tokens = load_file(in_dir / "corpus.safetensors")["tokens"]
    except (ValidationError, OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"pretraining inputs in {in_dir}: {error}") from error
    lm = initial_lm(in_dir / "model_config.json", settings.seed)
    count = len(tokens) // settings.row
    if count < settings.batch:
        raise ModelError(f"corpus has {count} rows of {settings.row} tokens, fewer than one batch of {settings.batch}")
    rows = tokens[: count * settings.row].view(count, settings.row).long()
    if int(rows.max()) >= lm.config.vocab_size or int(rows.min()) < 0:
        raise ModelError(f"corpus has token {int(rows.max())}, the model's vocabulary is {lm.config.vocab_size}")
    loss = _train(lm, rows, settings, progress)
    out_dir.mkdir(parents=True, exist_ok=True)
    save_weights(lm, out_dir / "model.safetensors")
    (out_dir / "config.json").write_text(lm.config.to_json_string(use_diff=False), encoding="utf-8")
    for name in ("tokenizer.json", "prompt.json"):
        if (in_dir / name).is_file():
            shutil.copyfile(in_dir / name, out_dir / name)
    return loss


def _train(lm: Any, rows: torch.Tensor, settings: PretrainParams, progress: Progress | None) -> float:
    lm.train()
    optimizer = torch.optim.AdamW(
        lm.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
    )
    generator = torch.Generator().manual_seed(settings.seed)
    order, at = torch.randperm(len(rows), generator=generator), 0
    end = math.inf if settings.seconds is None else time.monotonic() + settings.seconds
    recent: list[float] = []
    for step in range(settings.steps):
        if time.monotonic() > end:
            raise DeadlineError(f"pretraining reached its {settings.seconds} s at step {step} of {settings.steps}")
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _schedule(step, settings.steps)
        if at + settings.batch > len(rows):
            order, at = torch.randperm(len(rows), generator=generator), 0
        batch = rows[order[at : at + settings.batch]]
        at += settings.batch
        loss = _next_token_loss(lm, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent[-REPORT_EVERY + 1 :], float(loss.detach())]
        if not math.isfinite(recent[-1]):
            raise TrainingError(f"pretraining loss is {recent[-1]} at step {step}; lower lr ({settings.lr})")
        if progress is not None and (step + 1) % REPORT_EVERY == 0:
            progress(step + 1, settings.steps, sum(recent) / len(recent))
    lm.eval()
    return sum(recent) / len(recent) if recent else math.nan


def _next_token_loss(lm: Any, batch: torch.Tensor) -> torch.Tensor:
    state = lm.model(input_ids=batch[:, :-1]).last_hidden_state
    logits = lm.lm_head(state)
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))


def _schedule(step: int, steps: int) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(MIN_LR_SHARE, cosine)
