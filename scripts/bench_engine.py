"""How fast and how large the training engine is, against loops in published styles kept here, and what it computes.

    python scripts/bench_engine.py                 # both sizes on one CPU thread, about six minutes
    python scripts/bench_engine.py --size toy
    python scripts/bench_engine.py --device cuda   # Qwen3-4B's shape with random weights (never measured so far)

Every loop trains the same model on the same items for the same epochs and batches of 32, each in a process of its own
(so that peak memory is its own), all on one thread, `--rounds` times in turn; times are CPU seconds of the fastest
round. The data are made up: texts of lognormal length in which marker words tell the label.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

LABELS = (1, 2)
END = 0
MARKERS = 8
BATCH = 32
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Size:
    """A model and its data; `mean` tokens a text with lognormal spread `sigma`."""

    name: str
    width: int
    layers: int
    vocabulary: int
    mean: float
    sigma: float
    train: int
    test: int
    epochs: int
    lr: float

    def config(self) -> dict[str, Any]:
        """The model's configuration."""
        heads = self.width // 16
        return {
            "model_type": "qwen3", "vocab_size": self.vocabulary, "hidden_size": self.width,
            "intermediate_size": 3 * self.width, "num_hidden_layers": self.layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "head_dim": 16, "max_position_embeddings": 1024,
            "tie_word_embeddings": True, "pad_token_id": END, "eos_token_id": END, "bos_token_id": END,
        }  # fmt: skip


SIZES = {
    "toy": Size("toy", 64, 3, 684, 20.0, 0.5, train=1024, test=1024, epochs=3, lr=1e-3),
    "big": Size("big", 128, 4, 8192, 78.0, 0.6, train=256, test=256, epochs=3, lr=1e-3),
}


def made_up(size: Size, n: int, seed: int) -> tuple[list[Ids], npt.NDArray[np.int64]]:
    """Texts and labels: two fifths of a text's words are markers, of the label's own kind nine times in ten."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(size.mean) - size.sigma**2 / 2, size.sigma, n)).clip(6, size.mean * 8)
    labels = rng.integers(2, size=n)
    rows = []
    for length, label in zip(lengths.astype(int), labels, strict=True):
        words = rng.integers(3 + 2 * MARKERS, size.vocabulary, length)
        kind = np.where(rng.random(length) < 0.9, label, 1 - label)
        marker = 3 + kind * MARKERS + rng.integers(MARKERS, size=length)
        rows.append(np.where(rng.random(length) < 0.4, marker, words).astype(np.int32))
    return rows, labels


# loops in published styles


def fresh_lm(size: Size) -> Any:
    """The Hugging Face model of a size, the same for every loop."""
    from gpu_pool.weak_to_strong.models import initial_lm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(size.config()))
        return initial_lm(path, seed=0)


def padded_loop(
    size: Size, rows: list[Ids], labels: npt.NDArray[np.int64], lm: Any, seed: int, checkpoint: bool = True
) -> None:
    """Random batches padded to their longest, attention mask, full-vocabulary logits at every position, loss on the
    label and the end token, recomputation in the backward pass, an optimiser that walks over the parameters.
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
            out = lm(
                input_ids=torch.tensor(ids), attention_mask=torch.tensor(masks), labels=torch.tensor(targets),
                use_cache=False,
            )  # fmt: skip
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
            out.loss.item()
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


def engine_model(size: Size, lm: Any) -> Any:
    """A LabelModel around `lm` with a tokenizer that only has to know the labels."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from gpu_pool.weak_to_strong.formats import PromptFormat
    from gpu_pool.weak_to_strong.models import LabelModel

    vocabulary = {f"w{i}": i for i in range(size.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="w0")))  # type: ignore[no-untyped-call]
    fmt = PromptFormat("{prompt}", "", "", (f"w{LABELS[0]}", f"w{LABELS[1]}"))
    return LabelModel(lm, tokenizer, "binary", fmt)


def engine_loop(size: Size, rows: list[Ids], labels: npt.NDArray[np.int64], lm: Any, seed: int) -> Any:
    """The engine's loop with its defaults."""
    from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune

    config = TrainConfig(epochs=size.epochs, lr=size.lr, batch_size=BATCH, betas=(0.9, 0.95), seed=seed)
    return finetune(engine_model(size, lm), rows, labels, config)


LOOPS: dict[str, Callable[..., Any]] = {
    "padded": padded_loop,
    "padded, no recomputation": functools.partial(padded_loop, checkpoint=False),
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


# on a GPU: written to be run, never measured


def on_gpu(items: int = 6826, mean: float = 1050.0, steps: int = 12) -> None:
    """Qwen3-4B's shape with random weights, LoRA r = 32, batches of 32 on texts of lognormal length (sigma .6 assumed):
    seconds of some steps, and of a whole run of five epochs by the ratio of tokens.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune

    shape = Size("4B", 2560, 36, 151_936, mean, 0.6, items, 0, 5, 1e-4)
    config = shape.config() | {
        "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 32_768,
    }  # fmt: skip
    with torch.device("cuda"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    rows, labels = made_up(shape, items, 1)
    model = engine_model(shape, lm.eval())
    settings = TrainConfig(epochs=1, batch_size=BATCH, lr=1e-4, betas=(0.9, 0.95), trainable="lora:32")
    finetune(model, rows[:BATCH], labels[:BATCH], settings)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.monotonic()
    report = finetune(model, rows[: steps * BATCH], labels[: steps * BATCH], settings)
    torch.cuda.synchronize()
    rate = report.tokens / (time.monotonic() - start)
    whole = 5 * sum(len(row) for row in rows) / rate
    # 16.2 GFLOP a token: forward 7.27, backward to the activations 7.27, adapters .53, the rest attention at 1,200.
    print(
        f"{torch.cuda.get_device_name()}: {rate:.0f} tokens/s, {rate * 16.2e9 / 1e12:.0f} TFLOP/s counted, padded "
        f"{report.padded / report.tokens:.2f}x, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, five epochs "
        f"of {items} items would take {whole:.0f} s"
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
    options = parser.parse_args()
    if options.device == "cuda":
        on_gpu()
        return
    if options.child:
        print(json.dumps(child(SIZES[options.size], options.child, options.seed)))
        return
    subprocess.run([sys.executable, str(Path(__file__).with_name("bench_vanilla.py"))], check=True)
    if options.vanilla:
        return
    for name in SIZES if options.size == "all" else [options.size]:
        compare(SIZES[name], options.rounds)


if __name__ == "__main__":
    main()
