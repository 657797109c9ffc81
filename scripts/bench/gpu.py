"""The published runs' sizes on a GPU: what each step of the fast loop gains, and four quarter leases against a row.

    python scripts/bench/gpu.py --device cuda                        # Qwen3-4B's shape, a sample of steps of every loop
    python scripts/bench/gpu.py --device cuda --shape 0.5b           # the weak teacher's
    python scripts/bench/gpu.py --device cuda --loops engine --whole # five epochs of all items
    python scripts/bench/gpu.py --device cuda --leases               # four processes with a quarter of the memory each
    python scripts/bench/gpu.py --shape 4b-toy                       # the same code on a CPU; also 0.5b-toy, --leases

Weights are random, texts made up: lognormal lengths, mean 1,050 tokens, sigma .6 (assumed: the published texts are not
at hand). LoRA r = 32 on all linear layers, batches of 32. All loops take the same sample of `--steps` batches after two
steps of warming up; a whole run is extrapolated by its tokens. Nothing printed for a GPU has been measured by the
project so far; the predicted gains are those of an analysis of the published loop, stated before any measurement.

Counted, per token and with 2 operations per multiply-add: a forward pass is 2 x the parameters of the layers plus
attention to half of the text; the backward pass through frozen weights is as much again, attention 2.5 times. Model
FLOPs utilisation is that lean work on real tokens, over time and `--peak` TFLOP/s: the published style's recomputation,
padding and full vocabulary do not count as work, and that the engine runs most of its top layer at the last token only
is not subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import numpy as np
import torch

from cluster.terminal import run_script
from gpu_pool.weak_to_strong.tokens import TokenTable
from scripts.bench.gpu_loops import LOOPS, Work, model_of
from scripts.bench.texts import BATCH, Size, made_up

QWEN3_4B = {
    "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 32_768,
}  # fmt: skip
QWEN_HALF_B = {
    "model_type": "qwen2", "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 16,
    "head_dim": 64, "max_position_embeddings": 32_768,
}  # fmt: skip
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
SHAPES = {
    "4b": Size("4b", 2560, 36, 151_936, 1050.0, 0.6, 6826, 0, 5, 1e-4, QWEN3_4B),
    "0.5b": Size("0.5b", 1024, 24, 151_936, 1050.0, 0.6, 2245, 0, 5, 1e-4, QWEN_HALF_B),
    "4b-toy": Size("4b-toy", 64, 4, 2000, 40.0, 0.6, 6826, 0, 5, 1e-4, GROUPED),
    "0.5b-toy": Size("0.5b-toy", 32, 2, 2000, 40.0, 0.6, 2245, 0, 5, 1e-4, {"model_type": "qwen2"}),
}
PUBLISHED = {"4b": 6282.0, "0.5b": 463.0}
AIM = {"4b": "at most 1,250 s, aim 900 s (H200)", "0.5b": "at most 80 s"}
PREDICTED = {
    "+ length buckets": "2.5x", "+ no recomputation": "1.5x", "+ two rows, no mask": "1.1x (4B), 1.4x (0.5B)",
    "engine": "1.1 to 1.2x", "engine, upper half": "2x",
}  # fmt: skip
"""Gain over the loop before it."""


@dataclass(frozen=True)
class Lean:
    """Operations of the leanest exact training step, per token and for a text's attention."""

    body: float
    adapters: float
    attention: float

    @classmethod
    def of(cls, size: Size, rank: int) -> Lean:
        """Counted from the configuration."""
        config = size.config()
        heads = config["num_attention_heads"] * config["head_dim"]
        groups = config["num_key_value_heads"] * config["head_dim"]
        d, ff = size.width, config["intermediate_size"]
        linears = [(d, heads), (d, groups), (d, groups), (heads, d), (d, ff), (d, ff), (ff, d)]
        body = 2.0 * size.layers * sum(a * b for a, b in linears)
        adapters = 2.0 * size.layers * rank * sum(a + b for a, b in linears)
        return cls(body, adapters, 2.0 * size.layers * heads)

    def step(self, lengths: np.ndarray[Any, Any], share: float = 1.0) -> float:
        """Operations of a training step on texts of these lengths; `share` of the layers, the rest being cached."""
        real = lengths.astype(float)
        return share * float(((2 * self.body + 3 * self.adapters) * real + 3.5 * self.attention * real**2).sum())


def measured(size: Size, loop: str, options: argparse.Namespace) -> dict[str, float]:
    """Train a sample, or the whole, with one loop; seconds, tokens, memory."""
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(options.memory_fraction)
    torch.set_num_threads(1)
    rows, labels = made_up(size, size.train, 1)
    count = size.train if options.whole else min(size.train, options.steps * BATCH)
    # States are cached once for all epochs: a sample of one epoch would overstate that.
    epochs = size.epochs if options.whole or "half" in loop else 1
    work = Work(size, rows, labels, options.rank, options.micro_rows, device, epochs)
    model = model_of(work)
    LOOPS[loop](replace(work, rows=rows[: 2 * BATCH], labels=labels[: 2 * BATCH], epochs=1), model)
    if options.wait:
        print("ready", flush=True)
        sys.stdin.readline()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    padded = LOOPS[loop](replace(work, rows=rows[:count], labels=labels[:count]), model)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - start
    lengths = np.array([len(row) for row in rows[:count]])
    tokens = int(lengths.sum()) * work.epochs
    whole = sum(len(row) for row in rows) * size.epochs
    lean = Lean.of(size, options.rank).step(lengths, 0.5 if "half" in loop else 1.0) * work.epochs
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    return {
        "seconds": seconds, "tokens": tokens, "padded": padded, "flops": lean, "peak_gib": peak,
        "whole_s": seconds * whole / tokens, "whole_tokens": whole,
    }  # fmt: skip


def command(options: argparse.Namespace, **changes: Any) -> list[str]:
    """This script in a process of its own, so that memory and warm-up are its own."""
    given = {
        "shape": options.shape, "device": options.device, "steps": options.steps, "rank": options.rank,
        "micro-rows": options.micro_rows,
    } | changes  # fmt: skip
    flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    return [sys.executable, __file__, *flags, *(["--whole"] if options.whole else [])]


def ladder(size: Size, options: argparse.Namespace) -> None:
    """One loop after the other, each a step of the analysis, with its predicted and measured gain."""
    rows, _ = made_up(size, size.train, 1)
    lengths, lean = TokenTable.of(rows).lengths, Lean.of(size, options.rank)
    print(
        f"{size.name}: d {size.width}, {size.layers} layers, vocabulary {size.vocabulary}; {size.train} texts, mean "
        f"{lengths.mean():.0f} tokens, sigma {size.sigma}; five epochs are {lengths.sum() * size.epochs / 1e6:.1f} M "
        f"tokens and {lean.step(lengths) * size.epochs / 1e12:.4g} TFLOP, "
        f"{lean.step(lengths) / lengths.sum() / 1e9:.4g} GFLOP a token"
    )
    print(f"{'loop':24s} {'tokens/s':>9s} {'padded':>7s} {'TFLOP/s':>8s} {'MFU':>6s} {'GiB':>6s} {'whole s':>8s}  gain")
    before = None
    for loop in options.loops.split(",") if options.loops else LOOPS:
        done = subprocess.run(command(options, child=loop), capture_output=True, text=True)
        if done.returncode:
            print(f"{loop:24s} failed: {done.stderr.strip().splitlines()[-1][:150]}")
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        rate = r["flops"] / r["seconds"] / 1e12
        used = (
            f"{rate / options.peak:6.1%} {r['peak_gib']:6.1f}" if options.device == "cuda" else f"{'-':>6s} {'-':>6s}"
        )
        gain = "" if before is None else f"{before / r['whole_s']:.2f}x, predicted {PREDICTED[loop]}"
        print(
            f"{loop:24s} {r['tokens'] / r['seconds']:9.0f} {r['padded'] / r['tokens']:6.2f}x {rate:8.3g} "
            f"{used} {r['whole_s']:8.0f}  {gain}",
            flush=True,
        )
        before = r["whole_s"]
    if size.name in PUBLISHED:
        print(f"published: {PUBLISHED[size.name]:.0f} s with its evaluation; wanted: {AIM[size.name]}")


def leases(options: argparse.Namespace) -> None:
    """Four processes at once, a quarter of the memory each, against the same four one after the other."""

    def started() -> subprocess.Popen[str]:
        given = [*command(options, child="engine", **{"memory-fraction": 0.25}), "--wait"]
        process = subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("a lease failed before its start")
        return process

    def wall(processes: list[subprocess.Popen[str]]) -> float:
        start = time.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            json.loads(process.stdout.readline())  # the result, before the process takes itself down
        seconds = time.monotonic() - start
        for process in processes:
            process.communicate()
        return seconds

    row = sum(wall([started()]) for _ in range(4))
    together = wall([started() for _ in range(4)])
    print(f"four {options.shape} runs: in a row {row:.1f} s, in quarter leases {together:.1f} s, {row / together:.2f}x")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES), help="default: 4b on a GPU, 4b-toy on a CPU")
    parser.add_argument("--loops", help=f"comma-separated, of: {', '.join(LOOPS)}")
    parser.add_argument("--steps", type=int, default=16, help="batches of 32 in the sample")
    parser.add_argument("--whole", action="store_true", help="all items and epochs instead of a sample")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--micro-rows", type=int, default=8, help="rows at once of the loops with full logits")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s that count as 100 %% (H200, dense bf16)")
    parser.add_argument("--leases", action="store_true", help="four quarter leases against four runs in a row")
    parser.add_argument("--memory-fraction", type=float, default=1.0, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=list(LOOPS), help=argparse.SUPPRESS)
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shape = options.shape or ("4b" if options.device == "cuda" else "4b-toy")
    if options.leases and not options.shape.startswith("0.5b"):
        options.shape = "0.5b" if options.device == "cuda" else "0.5b-toy"
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: no CUDA device is visible here; --shape 4b-toy runs the same code on a CPU")
    if options.child:
        print(json.dumps(measured(SHAPES[options.shape], options.child, options)), flush=True)
    elif options.leases:
        leases(options)
    else:
        ladder(SHAPES[options.shape], options)


if __name__ == "__main__":
    sys.exit(run_script(lambda _: main()))
