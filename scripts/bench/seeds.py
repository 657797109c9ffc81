"""Several seeds trained together against one by one, on one CPU thread: seconds, ratio, padding, difference.

    python scripts/bench/seeds.py [--count 5] [--items 320]

Both do the same work with the same results; the last columns say by how much the weights and the last epoch's losses
differ. Times are CPU seconds of the faster of two rounds. What is trained together by default is in
`gpu_pool.weak_to_strong.training.jobs`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import torch
from transformers.utils import logging as transformers_logging

from cluster.terminal import run_script
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.student import lm_tensors
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import Job, TrainConfig, TrainReport, finetune_many
from gpu_pool.weak_to_strong.training.jobs import pays
from scripts.bench.texts import Size, engine_model, fresh_lm, made_up

CASES = (
    (16, 1, "full"), (24, 2, "full"), (32, 2, "full"), (48, 2, "full"), (64, 3, "full"),
    (64, 3, "lora:8"), (128, 4, "lora:8"), (64, 3, "top:1"), (64, 3, "head"),
)  # fmt: skip


def measure(base: LabelModel, table: TokenTable, labels: Sequence[float], trainable: str, count: int) -> str:
    """One row of the table."""
    best: dict[int, tuple[float, list[TrainReport], list[Job]]] = {}
    for _ in range(2):
        for at_once in (1, count):
            configs = [TrainConfig(epochs=1, lr=1e-3, trainable=trainable, seed=seed) for seed in range(count)]
            jobs = [Job(base.copy(trainable), table, labels, config) for config in configs]
            start = time.process_time()
            reports = finetune_many(jobs, at_once=at_once)
            seconds = time.process_time() - start
            if at_once not in best or seconds < best[at_once][0]:
                best[at_once] = (seconds, reports, jobs)
    (alone, first, one), (joint, second, many) = best[1], best[count]
    apart = max(
        float((a - b).abs().max())
        for x, y in zip(one, many, strict=True)
        for a, b in zip(lm_tensors(x.model).values(), lm_tensors(y.model).values(), strict=True)
    )
    losses = max(abs(a.loss - b.loss) for a, b in zip(first, second, strict=True))
    padding = [sum(r.padded for r in reports) / sum(r.tokens for r in reports) for reports in (first, second)]
    return (
        f"{alone:10.2f} {joint:9.2f} {alone / joint:6.2f}x {padding[0]:8.2f} {padding[1]:8.2f} "
        f"{apart:11.1e} {losses:9.1e} {'yes' if pays(one[0]) > 1 else 'no':>8s}"
    )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5, help="seeds")
    parser.add_argument("--items", type=int, default=320)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    print(f"{options.count} seeds, {options.items} texts of 40 tokens (sigma .3), one epoch, batches of 32")
    print("model               one by one  together  ratio  padding together weights by losses by  default")
    for width, layers, trainable in CASES:
        size = Size("seeds", width, layers, 1000, 40.0, 0.3, options.items, 0, 1, 1e-3)
        rows, labels = made_up(size, options.items, 1)
        base = engine_model(size, fresh_lm(size))
        row = measure(base, TokenTable.of(rows), labels.astype(float).tolist(), trainable, options.count)
        print(f"d {width:3d}, {layers} layers {trainable:7s}{row}", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(lambda _: main()))
