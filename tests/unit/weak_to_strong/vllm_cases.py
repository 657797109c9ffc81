"""What the two generators are asked; as a program it asks vLLM: MODEL_FOLDER SAVE_FOLDER OUTPUT_FILE.

The program runs in the environment of vLLM, which has no pytest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.generation import VllmGenerator, label_log_probs
from gpu_pool.weak_to_strong.items import Item, ItemSet
from gpu_pool.weak_to_strong.models import LabelModel

PROMPTS = [
    "Which answer is better?",
    "A",
    "The critique says that the claim is wrong, since two and two are four and not five. " * 4,
    "A weak teacher labels every item",
    "A weak teacher labels every item",
]
TAILS = [" The answer is B.", "", " Verdict: True", " and a student learns", " and a teacher"]
SETTINGS = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True, "distributed_executor_backend": "uni"}


def some_pairs() -> ItemSet:
    rng = np.random.default_rng(0)
    words = ["the", "weak", "teacher", "labels", "every", "item", "and", "a", "strong", "student", "learns"]
    texts = [" ".join(rng.choice(words, size=rng.integers(2, 20))) for _ in range(24)]
    return ItemSet.of([Item(str(i), "pair", f"Question {i}?", texts[2 * i], texts[2 * i + 1]) for i in range(12)])


def ask(model: LabelModel, writer: VllmGenerator) -> dict[str, Any]:
    out: dict[str, Any] = {
        "greedy": writer.generate(PROMPTS, n=2, max_tokens=24, temperature=0),
        "sampled": [writer.generate(PROMPTS, n=3, max_tokens=12, seed=seed) for seed in (1, 1, 2)],
        "scores": writer.score(PROMPTS, TAILS).tolist(),
        "labels": label_log_probs(writer, model, some_pairs(), prior=True).tolist(),
    }
    try:
        writer.generate(["word " * 3000])
    except ModelError as error:
        out["too long"] = str(error)
    return out


def main() -> None:
    model = LabelModel.load(Path(sys.argv[1]), "pair")
    writer = VllmGenerator.of(model, Path(sys.argv[2]), **SETTINGS)
    try:
        out = ask(model, writer)
    finally:
        writer.close()
    Path(sys.argv[3]).write_text(json.dumps(out))


if __name__ == "__main__":
    main()
