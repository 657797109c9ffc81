"""The chat domain: which of two replies is better?

Every content word is secretly helpful or unhelpful. Documents have a mood, so words of one quality keep company; a few
end with a reaction or compare two replies, both often wrong. Style words agree with quality only in part: a surface
cue. A good reply draws three quarters helpful words, a bad one a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from gpu_pool.weak_to_strong.domains import base, words
from gpu_pool.weak_to_strong.domains.base import DomainSpec, IntArray, Labels, Seed
from gpu_pool.weak_to_strong.formats import FORMATS, PromptFormat
from gpu_pool.weak_to_strong.items import ItemSet, Kind

_STRUCTURE = ("user", "bot", "A", "B", "react", "better", "pick", ".", "thanks", "useless")


@dataclass(frozen=True, slots=True)
class ChatWorld:
    """Knobs of the generator; shares are probabilities."""

    content_words: int = 600
    bias: float = 0.25  # a good reply's words are helpful with probability .5 + bias
    corpus_bias: float = 0.35
    filler: float = 0.35
    style: float = 0.2  # share of style words; they fall into the filler share
    style_agrees: float = 0.7
    reacted: float = 0.02  # documents that end with a reaction
    compared: float = 0.01  # documents that compare two replies
    wrong: float = 0.3  # reactions and comparisons that are wrong
    reply: tuple[int, int] = (5, 9)  # words of a reply: at least, below
    prompt: tuple[int, int] = (2, 5)


class ChatDomain:
    """The chat world of one world seed."""

    name = "chat"
    kind: Kind = "pair"

    def __init__(self, spec: DomainSpec, world: ChatWorld, world_seed: int) -> None:
        self.spec = spec
        self.world = world
        self.world_seed = world_seed
        rng = base.seeded(world_seed, "chat", "world")
        content = words.invented_words(world.content_words, rng)
        polarity = rng.permutation(np.arange(world.content_words) % 2)
        self.vocabulary: tuple[str, ...] = (
            *base.SPECIAL, *_STRUCTURE, *words.HEDGED_STYLE, *words.CONFIDENT_STYLE, *words.CHAT_FILLERS, *content,
        )  # fmt: skip
        self._id = {word: i for i, word in enumerate(self.vocabulary)}
        probability = base.zipf(world.content_words)
        first = self._id[content[0]]
        self._content = [first + np.flatnonzero(polarity == side) for side in (0, 1)]
        self._cumulative = [np.cumsum(p / p.sum()) for p in (probability[polarity == side] for side in (0, 1))]
        self._fillers = np.array([self._id[word] for word in words.CHAT_FILLERS])
        self._styles = np.array([[self._id[w] for w in style] for style in (words.HEDGED_STYLE, words.CONFIDENT_STYLE)])

    @property
    def prompt_format(self) -> PromptFormat:
        """The pair format."""
        return FORMATS["pair"]

    def tokenizer(self) -> Tokenizer:
        """The word-level tokenizer of its vocabulary."""
        return base.word_tokenizer(self.vocabulary)

    def _words(
        self, rng: np.random.Generator, good: IntArray, bias: float, span: tuple[int, int], style: IntArray | None
    ) -> IntArray:
        """One utterance a row: `good` (n,) says which quality its content words lean to."""
        n, width = len(good), span[1] - 1
        shape = (n, width)
        quality = np.where(rng.random(shape) < 0.5 + bias, good[:, None], 1 - good[:, None])
        content = [self._content[side][base.draw(self._cumulative[side], shape, rng)] for side in (0, 1)]
        out = np.where(quality == 1, content[1], content[0])
        kind = rng.random(shape)
        out = np.where(kind < self.world.filler, self._fillers[rng.integers(len(self._fillers), size=shape)], out)
        if style is not None:
            styled = self._styles[style[:, None], rng.integers(self._styles.shape[1], size=shape)]
            out = np.where(kind < self.world.style, styled, out)
        return base.cut(out, rng.integers(span[0], span[1], size=n))

    def _prompts(self, rng: np.random.Generator, n: int) -> IntArray:
        return self._words(rng, np.zeros(n, dtype=np.int64), 0.0, self.world.prompt, None)

    def corpus(self, documents: int, seed: Seed) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Dialogues with a mood, a few with a reaction, a few comparisons."""
        rng = base.seeded(seed, "chat", "corpus", str(self.world_seed))
        compared = int(rng.binomial(documents, self.world.compared))
        blocks = [self._dialogues(rng, documents - compared), self._comparisons(rng, compared)]
        return base.flatten(blocks, rng)

    def _dialogues(self, rng: np.random.Generator, n: int) -> IntArray:
        good, style = _coins(rng, n), _coins(rng, n)
        reply = self._words(rng, good, self.world.corpus_bias, (6, 14), style)
        shown = np.where(rng.random(n) < self.world.wrong, 1 - good, good)
        reacts = rng.random(n) < self.world.reacted
        word = np.where(shown == 1, self._id["thanks"], self._id["useless"])
        return np.hstack([
            base.column(base.BOS, n), base.column(self._id["user"], n), self._prompts(rng, n),
            base.column(self._id["bot"], n), reply,
            base.column(np.where(reacts, self._id["react"], base.NOTHING), n),
            base.column(np.where(reacts, word, base.NOTHING), n), base.column(self._id["."], n),
        ])  # fmt: skip

    def _pair(
        self, rng: np.random.Generator, good: IntArray, styles: tuple[IntArray, IntArray]
    ) -> tuple[IntArray, IntArray]:
        first = self._words(rng, good, self.world.bias, self.world.reply, styles[0])
        second = self._words(rng, 1 - good, self.world.bias, self.world.reply, styles[1])
        return first, second

    def _comparisons(self, rng: np.random.Generator, n: int) -> IntArray:
        good = _coins(rng, n)
        first, second = self._pair(rng, good, (_coins(rng, n), _coins(rng, n)))
        shown = np.where(rng.random(n) < self.world.wrong, 1 - good, good)
        return np.hstack([
            base.column(base.BOS, n), base.column(self._id["user"], n), self._prompts(rng, n),
            base.column(self._id["A"], n), first, base.column(self._id["B"], n), second,
            base.column(self._id["better"], n),
            base.column(np.where(shown == 1, self._id["A"], self._id["B"]), n), base.column(self._id["."], n),
        ])  # fmt: skip

    def sample(self, n: int, seed: Seed) -> tuple[ItemSet, Labels]:
        """`n` pairs, one reply good and one bad in either order; label 1 means the second is the good one."""
        rng = base.seeded(seed, "chat", "items", str(self.world_seed))
        good = _coins(rng, n)
        agrees = [rng.random(n) < self.world.style_agrees for _ in range(2)]
        styles = (np.where(agrees[0], good, 1 - good), np.where(agrees[1], 1 - good, good))
        first, second = self._pair(rng, good, styles)
        prompts = base.texts(self._prompts(rng, n), self.vocabulary)
        ids = base.item_ids(n, seed, "chat")
        items = ItemSet("pair", ids, prompts, base.texts(first, self.vocabulary), base.texts(second, self.vocabulary))
        return items, (1 - good).astype(np.int8)


def _coins(rng: np.random.Generator, n: int) -> IntArray:
    return rng.integers(2, size=n)
