"""How fast and how large the training engine is, against loops in published styles kept here, and what it computes.

    python scripts/bench/engine.py                 # both sizes on one CPU thread, about six minutes
    python scripts/bench/engine.py --size toy
    python scripts/bench/engine.py --seeds         # several seeds at once (seeds.py)
    python scripts/bench/engine.py --device cuda   # Qwen3-4B's shape with random weights (gpu.py)

Every loop trains the same model on the same items for the same epochs and batches of 32, each in a process of its own
(so that peak memory is its own), all on one thread, `--rounds` times in turn; times are CPU seconds of the fastest
round.

Final accuracies are to be compared at one objective. From random weights, the softmax over the whole vocabulary trains
the input table as well, through the tied head, and ends higher than the one over two labels, whoever computes it. Toy
size, six seeds: padded .973, padded with two rows .957, engine .956 (with batches in random order .960). With a head of
its own, three seeds: padded .961, engine .960. The end token, weight decay and learning rate are not the reason.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from cluster.terminal import run_script
from scripts.bench.texts import BATCH, END, LABELS, SIZES, Ids, Size, engine_model, fresh_lm, made_up

# loops in published styles


def padded_loop(
    size: Size,
    rows: list[Ids],
    labels: npt.NDArray[np.int64],
    lm: Any,
    seed: int,
    checkpoint: bool = True,
    two_rows: bool = False,
) -> None:
    """Random batches padded to their longest, attention mask, full-vocabulary logits at every position, loss on the
    label and the end token, recomputation in the backward pass, an optimiser that walks over the parameters.

    `two_rows`: the engine's objective instead, a softmax over the two labels at the last token.
    """
    if checkpoint:
        lm.gradient_checkpointing_enable()
    lm.train()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=size.lr, betas=(0.9, 0.95), foreach=False, fused=False)
    rng = np.random.default_rng(seed)
    steps, step = size.epochs * (len(rows) // BATCH), 0
    for _ in range(size.epochs):
        order = rng.permutation(len(rows)).tolist()
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            longest = max(len(rows[i]) for i in chosen) + 2
            ids, masks, targets = [], [], []
            for i in chosen:
                text = [*rows[i].tolist(), LABELS[labels[i]], END]
                behind = longest - len(text)
                ids.append(text + [END] * behind)
                masks.append([1] * len(text) + [0] * behind)
                targets.append([-100] * len(rows[i]) + [LABELS[labels[i]], END] + [-100] * behind)
            inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks), "use_cache": False}
            if two_rows:
                state = lm.model(**inputs).last_hidden_state
                last = torch.tensor([len(rows[i]) - 1 for i in chosen])
                scores = state[torch.arange(len(chosen)), last] @ lm.lm_head.weight[list(LABELS)].T
                loss = functional.cross_entropy(scores, torch.from_numpy(labels[chosen]))
            else:
                loss = lm(**inputs, labels=torch.tensor(targets)).loss
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
            loss.item()
            optimizer.param_groups[0]["lr"] = size.lr * min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps))
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    lm.eval()


def one_row_loop(size: Size, rows: list[Ids], labels: npt.NDArray[np.int64], lm: Any, seed: int) -> None:
    """Micro-batches of a single row whose graphs are kept until the batch is complete, a two-row score at the last
    token, Adam.
    """
    optimizer = torch.optim.Adam(lm.parameters(), lr=size.lr)
    head = torch.tensor(LABELS)
    rng = np.random.default_rng(seed)
    steps, step = size.epochs * (len(rows) // BATCH), 0
    for _ in range(size.epochs):
        order = rng.permutation(len(rows)).tolist()
        for start in range(0, len(order) - BATCH + 1, BATCH):
            scores, targets = [], []
            for i in order[start : start + BATCH]:
                ids = torch.tensor(rows[i].tolist())[None]
                state = lm.model(input_ids=ids, use_cache=False).last_hidden_state
                scores.extend(state[:, -1] @ lm.lm_head.weight[head].T)
                targets.append(torch.tensor([1 - float(labels[i]), float(labels[i])]))
            loss = functional.cross_entropy(torch.stack(scores), torch.stack(targets))
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()
            optimizer.param_groups[0]["lr"] = size.lr * (steps - step) / steps
            optimizer.step()
            optimizer.zero_grad()
            step += 1


def row_by_row(lm: Any, rows: list[Ids]) -> npt.NDArray[np.float32]:
    """Evaluation one text at a time with full-vocabulary logits everywhere; (n, 2)."""
    out = []
    with torch.inference_mode():
        for row in rows:
            logits = lm(input_ids=torch.from_numpy(row.astype(np.int64))[None], use_cache=False).logits
            out.append(logits[0, -1, list(LABELS)].numpy())
    return np.stack(out)


# the engine


def engine_loop(size: Size, rows: list[Ids], labels: npt.NDArray[np.int64], lm: Any, seed: int) -> Any:
    """The engine's loop with its defaults."""
    from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune

    config = TrainConfig(epochs=size.epochs, lr=size.lr, batch_size=BATCH, betas=(0.9, 0.95), seed=seed)
    return finetune(engine_model(size, lm), rows, labels, config)


LOOPS: dict[str, Callable[..., Any]] = {
    "padded": padded_loop,
    "padded, no recomputation": functools.partial(padded_loop, checkpoint=False),
    "padded, two-row objective": functools.partial(padded_loop, checkpoint=False, two_rows=True),
    "one row": one_row_loop,
    "engine": engine_loop,
}


def child(size: Size, loop: str, seed: int) -> dict[str, float]:
    """Train once and evaluate once; CPU seconds, accuracy, peak resident memory."""
    torch.set_num_threads(1)
    rows, labels = made_up(size, size.train, 1)
    test, truth = made_up(size, size.test, 2)
    few = Size(**(vars(size) | {"epochs": 1}))
    LOOPS[loop](few, rows[:BATCH], labels[:BATCH], fresh_lm(size), seed)
    lm = fresh_lm(size)
    before = peak_mib()
    start = time.process_time()
    LOOPS[loop](size, rows, labels, lm, seed)
    seconds = time.process_time() - start
    result = {"train_s": seconds, "peak_mib": peak_mib(), "before_mib": before}
    model = engine_model(size, lm)
    evaluate = (lambda: model.logits(test)) if loop == "engine" else (lambda: row_by_row(lm, test))
    start = time.process_time()
    logits = evaluate()
    result["eval_s"] = time.process_time() - start
    return result | {"accuracy": float(np.mean((logits[:, 1] > logits[:, 0]) == (truth == 1)))}


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(size: Size, rounds: int) -> None:
    """Run every loop in turn and print the table."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in LOOPS}
    for seed in range(rounds):
        for name in LOOPS:
            command = [sys.executable, __file__, "--child", name, "--size", size.name, "--seed", str(seed)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    best = {name: {key: min(r[key] for r in runs) for key in runs[0]} for name, runs in results.items()}
    for name, runs in results.items():
        best[name]["accuracy"] = float(np.mean([run["accuracy"] for run in runs]))
    examples = size.epochs * (size.train // BATCH) * BATCH
    engine = best["engine"]
    print(f"\n{size.name}: d {size.width}, {size.layers} layers, vocabulary {size.vocabulary}, {examples} examples")
    print(
        f"{'loop':26s} {'train s':>8s} {'ex/s':>7s} {'engine is':>10s} {'peak MiB':>9s} {'eval/s':>7s} {'accuracy':>9s}"
    )
    for name, r in best.items():
        print(
            f"{name:26s} {r['train_s']:8.2f} {examples / r['train_s']:7.0f} {r['train_s'] / engine['train_s']:9.2f}x "
            f"{r['peak_mib']:9.0f} {size.test / r['eval_s']:7.0f} {r['accuracy']:9.3f}"
        )
    print(f"evaluation against row by row: {best['one row']['eval_s'] / engine['eval_s']:.1f}x")
    counts(size)


def counts(size: Size) -> None:
    """Print counted tokens, padding and floating-point operations of a run (2 per multiply-add)."""
    from gpu_pool.weak_to_strong.models.batches import split
    from gpu_pool.weak_to_strong.training.batches import automatic_budget, bucketed
    from gpu_pool.weak_to_strong.training.config import TrainConfig

    rows, _ = made_up(size, size.train, 1)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    config = TrainConfig(epochs=size.epochs, batch_size=BATCH)
    budget = automatic_budget(size.width, torch.device("cpu"))
    parts = [part for index in bucketed(lengths, config) for part in split(index, lengths, budget)]
    engine = int(sum(len(part) * lengths[part].max() for part in parts))
    rng = np.random.default_rng(0)
    order = rng.permutation(len(rows))
    style = size.epochs * sum(
        int(lengths[order[at : at + BATCH]].max() + 2) * BATCH for at in range(0, len(order) - BATCH + 1, BATCH)
    )
    real, examples = int(lengths.sum()) * size.epochs, size.train * size.epochs
    layer = 2 * (4 * size.width**2 + 3 * 3 * size.width**2)
    lower = (size.layers - 1) * layer + 2 * 2 * size.width**2  # of the top layer, keys and values everywhere
    lean = 3 * (engine * lower + examples * (layer - 2 * 2 * size.width**2))
    full = 4 * style * size.layers * layer + 3 * style * 2 * size.width * size.vocabulary
    print(
        f"counted: {real} tokens; computed {engine} ({engine / real:.2f}x) by the engine, {style} "
        f"({style / real:.2f}x) by the padded loop; {lean / 1e9:.0f} GFLOP "
        f"against {full / 1e9:.0f} ({full / lean:.1f}x), attention apart"
    )
    mean = real / examples
    one = mean * (size.layers * layer + 2 * size.width * size.vocabulary)
    ours = mean * lower + layer - 2 * 2 * size.width**2
    print(
        f"counted, evaluation of a text: {ours / 1e6:.1f} MFLOP without padding against {one / 1e6:.1f} row by row "
        f"({one / ours:.1f}x): what is measured above that comes from fewer and larger products"
    )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=list(LOOPS), help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--vanilla", action="store_true", help="only a whole run, warm and cold")
    parser.add_argument("--seeds", action="store_true", help="only several seeds together against one by one")
    options = parser.parse_args()
    if options.device == "cuda":
        _run("gpu.py", "--device", "cuda")
        return
    if options.seeds:
        _run("seeds.py")
        return
    if options.child:
        print(json.dumps(child(SIZES[options.size], options.child, options.seed)))
        return
    _run("vanilla.py")
    if options.vanilla:
        return
    for name in SIZES if options.size == "all" else [options.size]:
        compare(SIZES[name], options.rounds)


def _run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(Path(__file__).with_name(script)), *arguments], check=True)


if __name__ == "__main__":
    sys.exit(run_script(lambda _: main()))
