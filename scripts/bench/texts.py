"""Models with random weights and made-up texts for the benchmarks of the training engine.

Texts of lognormal length in which marker words tell the label.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
    shape: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """The model's configuration; `shape` has what differs from that of the small models."""
        head_dim = 16 if self.width % 16 == 0 else 8
        heads = self.width // head_dim
        return {
            "model_type": "qwen3", "vocab_size": self.vocabulary, "hidden_size": self.width,
            "intermediate_size": 3 * self.width, "num_hidden_layers": self.layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "head_dim": head_dim, "max_position_embeddings": 1024,
            "tie_word_embeddings": True, "pad_token_id": END, "eos_token_id": END, "bos_token_id": END,
        } | self.shape  # fmt: skip


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


def fresh_lm(size: Size) -> Any:
    """The Hugging Face model of a size, the same for every loop."""
    from gpu_pool.weak_to_strong.models import initial_lm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(size.config()))
        return initial_lm(path, seed=0)


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
