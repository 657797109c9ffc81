"""What a domain is: a generated world with a hidden truth, its sizes, and the drawing of items from any seed.

A world is fixed by its world seed; items are drawn from a second seed, an integer or secret bytes. Nothing that a
sandbox is given imports this package: it holds the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from cluster.training import Training
from gpu_pool.weak_to_strong.formats import PromptFormat
from gpu_pool.weak_to_strong.items import ItemSet, Kind

Seed = int | bytes
Size = Literal["quick", "standard"]
Labels = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]
PAD, BOS, UNK = 0, 1, 2
SPECIAL = ("<pad>", "<bos>", "<unk>")
NOTHING = -1  # an empty cell of a document matrix


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a tiny Qwen3 with tied embeddings; the feed-forward part is 3 x hidden wide."""

    hidden: int
    layers: int
    head_dim: int

    def config(self, vocabulary: int) -> dict[str, object]:
        """The `config.json` of this shape for a vocabulary of that many words."""
        heads = max(2, self.hidden // self.head_dim)
        return {
            "model_type": "qwen3", "vocab_size": vocabulary, "hidden_size": self.hidden,
            "intermediate_size": 3 * self.hidden, "num_hidden_layers": self.layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "head_dim": self.head_dim, "max_position_embeddings": 256,
            "tie_word_embeddings": True, "use_cache": False, "pad_token_id": PAD, "bos_token_id": BOS,
            "eos_token_id": PAD,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class PretrainSpec:
    """Next-token pretraining: `steps` of `batch` rows of `row` tokens, AdamW at `lr`, cosine."""

    shape: ModelShape
    steps: int
    seed: int
    batch: int = 64
    row: int = 32
    lr: float = 3e-3


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """Sizes of a task: counts of items, corpus documents, and the two models' training."""

    name: str
    kind: Kind
    size: Size
    labelled: int
    unlabelled: int
    test: int
    documents: int
    strong: PretrainSpec
    weak: PretrainSpec
    teacher: Training
    student: Training


class Domain(Protocol):
    """A generated world. Every method is deterministic; a world never changes after its construction."""

    @property
    def name(self) -> str:
        """The domain's name: chat, math or code."""

    @property
    def kind(self) -> Kind:
        """The kind of its items."""

    @property
    def spec(self) -> DomainSpec:
        """Its sizes and protocols."""

    @property
    def prompt_format(self) -> PromptFormat:
        """How its items become text."""

    def corpus(self, documents: int, seed: Seed) -> npt.NDArray[np.int32]:
        """Pretraining text as one flat run of token ids; each document starts with BOS."""

    def sample(self, n: int, seed: Seed) -> tuple[ItemSet, Labels]:
        """`n` items and their labels (n,), 0 or 1; ids come from the seed and say nothing of the label."""

    def interchangeable(self) -> tuple[IntArray, ...]:
        """Groups of tokens, none in two, that can stand in each other's place: a text stays as many tokens."""

    def sibling(self, world_seed: int, spec: DomainSpec) -> Domain:
        """Another world of this kind, with other facts and words, to the sizes and protocols of `spec`."""

    def tokenizer(self) -> Tokenizer:
        """Its byte-level tokenizer, which can encode any text; ids 0 to 2 are `SPECIAL`."""


def seeded(seed: Seed, *tags: str) -> np.random.Generator:
    """A generator for (`seed`, `tags`); seeds may be secret bytes and different tags never share a stream."""
    return np.random.default_rng(int.from_bytes(_digest(seed, *tags), "big"))


def item_ids(n: int, seed: Seed, name: str) -> tuple[str, ...]:
    """`n` ids that depend on seed, name and position only."""
    key = _digest(seed, name, "ids")[:16]
    return tuple(hashlib.blake2b(str(i).encode(), key=key, digest_size=8).hexdigest() for i in range(n))


def _digest(seed: Seed, *tags: str) -> bytes:
    raw = b"b" + seed if isinstance(seed, bytes) else b"i" + str(seed).encode()
    return hashlib.blake2b(raw, key="/".join(tags).encode()[:64], digest_size=32).digest()


def zipf(count: int, exponent: float = 0.8, shift: float = 5.0) -> npt.NDArray[np.float64]:
    """Probabilities (count,) proportional to 1 / (rank + shift) ** exponent."""
    weight = (np.arange(count) + shift) ** -exponent
    return np.asarray(weight / weight.sum())


def draw(cumulative: npt.NDArray[np.float64], shape: tuple[int, ...], rng: np.random.Generator) -> IntArray:
    """Indices of `shape` from a cumulative distribution."""
    picked = np.searchsorted(cumulative, rng.random(shape))
    return np.minimum(picked, len(cumulative) - 1).astype(np.int64)


def cut(matrix: IntArray, lengths: IntArray) -> IntArray:
    """Blank each row of `matrix` (n, w) behind its length."""
    return np.where(np.arange(matrix.shape[1]) < lengths[:, None], matrix, NOTHING)


def column(value: int | IntArray, n: int) -> IntArray:
    """One token for each of `n` rows, as a column (n, 1)."""
    return np.broadcast_to(np.asarray(value, dtype=np.int64), (n,)).reshape(n, 1)


def flatten(documents: Sequence[IntArray], rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Shuffle the rows of several document matrices together and drop the empty cells."""
    width = max(block.shape[1] for block in documents)
    filled = [np.pad(b, ((0, 0), (0, width - b.shape[1])), constant_values=NOTHING) for b in documents]
    rows = np.concatenate(filled)
    rows = rows[rng.permutation(len(rows))]
    return np.asarray(rows[rows != NOTHING], dtype=np.int32)


def only(block: IntArray, rows: npt.NDArray[np.bool_]) -> IntArray:
    """`block` (n, w) with the other rows emptied; `rows` (n,)."""
    return np.where(rows[:, None], block, NOTHING)
