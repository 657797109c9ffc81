"""The disguise: what counted runs see of a generated domain, so that text tells a method nothing that its models don't.

Words that can stand in each other's place (the claims of a worked solution, the remedies of an answer) are exchanged by
a secret permutation, and so are the strong model's embeddings; the coordinates of its hidden states are shuffled and
some of them turned round. The disguised model says of a disguised item what the model itself says of the item, trained
or not: every tensor's numbers are the old ones, elsewhere or with another sign, which the optimiser does not mind
either. What has no meaning any more is whatever a method brings along: arithmetic, a table of labels or of words,
programs that are run, weights that were trained on truth. It need not be noticed, and noticing it does not help.

What it keeps: which texts are equal, how long they are, how often a word occurs. A file that holds statistics of the
words or of the model's weights can undo it; such a file is long, and says what it is for to whoever reads it.
"""

from __future__ import annotations

import shutil
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from cluster.errors import AarError
from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.folders import WEIGHTS, files_without_weights
from gpu_pool.weak_to_strong.items import ItemSet

Array = npt.NDArray[np.generic]
Texts = tuple[str, str, str]
"""Prompt, first and second choice of an item."""
_WORDS = ("embed_tokens.weight", "lm_head.weight")
_FROM_STATES = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
_TO_STATES = ("o_proj.weight", "down_proj.weight")
_SCALES = ("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight")
_WITHIN_A_HEAD = ("q_norm.weight", "k_norm.weight")


class DisguiseError(AarError):
    """A text or a model that cannot be disguised without changing what it says."""


class Disguise:
    """The exchange of words and of coordinates of one campaign and domain."""

    def __init__(self, domain: Domain, rng: np.random.Generator) -> None:
        """Draw both from `rng`."""
        self._tokenizer = domain.tokenizer()
        self._format = domain.prompt_format
        self._to = np.arange(self._tokenizer.get_vocab_size())
        for group in domain.interchangeable():
            self._to[group] = group[rng.permutation(len(group))]
        if len(np.unique(self._to)) < len(self._to):
            raise DisguiseError(f"{domain.name}: a token is in two groups of interchangeable ones")
        self._known: dict[Texts, Texts] = {}
        width = domain.spec.strong.shape.hidden
        self._coordinates = rng.permutation(width)
        self._signs = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), width)

    def items(self, items: ItemSet) -> ItemSet:
        """The items in other words. Raises `DisguiseError` for a text that would then be read as other tokens.

        What was disguised once is remembered: every batch asks about the same items.
        """
        rows = list(zip(items.prompts, items.firsts, items.seconds, strict=True))
        new = [row for row in dict.fromkeys(rows) if row not in self._known]
        self._known.update(zip(new, self._disguised(new), strict=True))
        prompts, firsts, seconds = zip(*(self._known[row] for row in rows), strict=True) if rows else ((), (), ())
        return replace(items, prompts=prompts, firsts=firsts, seconds=seconds)

    def _disguised(self, rows: list[Texts]) -> list[Texts]:
        before = {field: text for text, field, _, _ in string.Formatter().parse(self._format.body) if field}
        columns = [[row[place] for row in rows] for place in range(3)]
        for place, name in enumerate(("prompt", "first", "second")):
            if name in before:
                columns[place] = self._exchanged(columns[place], before[name])
        found: list[Texts] = list(zip(*columns, strict=True))
        for row, exchanged in zip(self._read(rows), self._read(found), strict=True):
            if not np.array_equal(self._to[row], exchanged):
                raise DisguiseError("an item's words are read otherwise after their exchange")
        return found

    def _exchanged(self, texts: list[str], before: str) -> list[str]:
        """Texts that stand behind `before`, where their first word may need a character of it to be read as one."""
        rows = self._tokenizer.encode_batch([before + text for text in texts], add_special_tokens=False)
        decoded = self._tokenizer.decode_batch([self._to[row.ids].tolist() for row in rows])
        if not all(text.startswith(before) for text in decoded):
            raise DisguiseError(f"{before!r} is not kept")
        return [text[len(before) :] for text in decoded]

    def _read(self, rows: list[Texts]) -> list[npt.NDArray[np.int64]]:
        """The tokens of each item's whole text, as a model reads it."""
        return [np.array(row.ids) for row in self._tokenizer.encode_batch([self._format.text(*row) for row in rows])]

    def states(self, hidden: Array) -> Array:
        """Hidden states (..., width) as the disguised model has them."""
        return np.ascontiguousarray(hidden[..., self._coordinates] * self._signs.astype(hidden.dtype))

    def model(self, source: Path, target: Path) -> None:
        """Write the disguised model of the folder `source` to `target`, world-readable.

        Raises `DisguiseError` for a tensor whose place in the model is not known.
        """
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        tensors = {name: self._tensor(name, values) for name, values in load_file(source / WEIGHTS).items()}
        save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
        for path in files_without_weights(source):
            shutil.copyfile(path, target / path.name)
        for path in target.iterdir():
            path.chmod(0o644)

    def _tensor(self, name: str, values: Array) -> Array:
        if name.endswith(_WORDS):
            return np.ascontiguousarray(self.states(values)[np.argsort(self._to)])
        if name.endswith(_FROM_STATES):
            return self.states(values)
        if name.endswith(_TO_STATES):
            return np.ascontiguousarray(self.states(values.T).T)
        if name.endswith(_SCALES):
            return np.ascontiguousarray(values[self._coordinates])
        if name.endswith(_WITHIN_A_HEAD):
            return values
        raise DisguiseError(f"{name} of shape {values.shape}: not known what its numbers stand for")


def with_states(features: Path, target: Path, disguise: Disguise) -> None:
    """Write a file of hidden states, `hidden` (n, layers + 1, width), as the disguised model has them."""
    arrays = load_file(features)
    save_file({**arrays, "hidden": disguise.states(arrays["hidden"])}, target)
    target.chmod(0o600)
