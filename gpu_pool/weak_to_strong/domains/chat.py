"""The chat domain: which of two answers is better?

A question, and two answers that each list remedies. Every remedy secretly helps or not. Answers have a mood, so
remedies of one quality keep company; some documents compare two answers, a few of them say which is better, a few
others end with a reaction, both often wrong. The tone (surely, perhaps) agrees with quality only in part: a surface
cue. Of an item's two answers the better one helps more: its helpful remedies less the others.

An item's remedies are drawn whether they help or not. So its text is drawn without a look at the truth, and nothing
that can be counted in any number of items (words, what stands together, repetitions, lengths) tells which remedies
help; only the tone tells something, once a teacher has said which tone is the good one. In the corpus remedies of one
quality keep company: that is what a model knows from it.

    How to clean rusty kettles?
    A:
    - pine-oil
    - salt-wax, surely
    - oat-milk
    B:
    - rose-gel, perhaps
    - clay-tea
    - pine-bark
    Pick: A
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from gpu_pool.weak_to_strong.domains import base, words
from gpu_pool.weak_to_strong.domains.base import DomainSpec, IntArray, Labels, Seed
from gpu_pool.weak_to_strong.domains.lexicon import Lexicon
from gpu_pool.weak_to_strong.formats import PromptFormat
from gpu_pool.weak_to_strong.items import ItemSet, Kind

_FORMAT = PromptFormat("{prompt}\nA:\n{first}\nB:\n{second}", "\nPick:", "\nBetter:", (" A", " B"))
_FIRST, _SECOND, _ANSWER, _REACTION = "\nA:", "\nB:", "\nAnswer:", "\nReaction:"
_REACTIONS = (" useless", " thanks")
_PATTERNS = (
    "|".join(words.ASKS), r"\n[A-Za-z]+:", r"\n- [A-Za-z]+-[A-Za-z]+", r",? ?[A-Za-z]+",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChatWorld:
    """Knobs of the generator; shares are probabilities, spans are (at least, below)."""

    remedies: int = 600
    bias: float = 0.25  # of two compared answers in the corpus, the good one's remedies help with probability .5 + bias
    corpus_bias: float = 0.35
    style: float = 0.35  # share of remedies with a word of tone
    style_agrees: float = 0.7
    asked: float = 0.3  # documents that show a question
    reacted: float = 0.02  # documents that end with a reaction
    paired: float = 0.15  # documents that compare two answers
    compared: float = 0.01  # documents that compare two answers and say which is better
    wrong: float = 0.3  # reactions and comparisons that are wrong
    answers: tuple[tuple[int, int], ...] = ((3, 4), (4, 5))  # remedies of an item's two answers, in either order
    compared_answer: tuple[int, int] = (3, 6)
    corpus_answer: tuple[int, int] = (4, 9)


class ChatDomain:
    """The chat world of one world seed."""

    name = "chat"
    kind: Kind = "pair"

    def __init__(self, spec: DomainSpec, world: ChatWorld, world_seed: int) -> None:
        self.spec = spec
        self.world = world
        self.world_seed = world_seed
        rng = base.seeded(world_seed, "chat", "world")
        remedies = words.remedies(world.remedies, rng)
        polarity = rng.permutation(np.arange(world.remedies) % 2)
        question = (words.ASKS, words.ACTIONS, words.STATES, words.THINGS)
        told = (_FIRST, _SECOND, _ANSWER, _REACTION, *_REACTIONS, _FORMAT.ask, _FORMAT.ask_prior, *_FORMAT.labels)
        tones = (*words.HEDGED, *words.CONFIDENT)
        self._lexicon = Lexicon([*told, *(w for group in question for w in group), *tones, *remedies], _PATTERNS)
        ids = self._lexicon.ids
        probability = base.zipf(world.remedies)
        self._all, self._helps = ids(remedies), polarity
        self._drawn = np.cumsum(probability)
        self._remedies = [self._all[polarity == side] for side in (0, 1)]
        self._cumulative = [np.cumsum(p / p.sum()) for p in (probability[polarity == side] for side in (0, 1))]
        self._styles = np.stack([ids(words.HEDGED), ids(words.CONFIDENT)])
        self._question = [ids(group) for group in question]

    @property
    def prompt_format(self) -> PromptFormat:
        """The pair format: question, answers A and B, the better one."""
        return _FORMAT

    def sibling(self, world_seed: int, spec: DomainSpec) -> ChatDomain:
        """Another chat world."""
        return ChatDomain(spec, self.world, world_seed)

    def tokenizer(self) -> Tokenizer:
        """Its byte-level tokenizer; each remedy is one token."""
        return self._lexicon.tokenizer()

    def interchangeable(self) -> tuple[IntArray, ...]:
        """Remedies, words of tone, ways to ask, other words of questions (one is an action and a state)."""
        asks, *others = self._question
        return (self._all, self._styles.ravel(), asks, np.unique(np.concatenate(others)))

    def _token(self, piece: str, n: int) -> IntArray:
        return base.column(self._lexicon.id(piece), n)

    def _answers(
        self, rng: np.random.Generator, good: IntArray, bias: float, span: tuple[int, int], style: IntArray
    ) -> IntArray:
        """One answer a row (n, 2w): `good` (n,) is the quality its remedies lean to, `style` (n,) its tone."""
        n, width = len(good), span[1] - 1
        shape = (n, width)
        quality = np.where(rng.random(shape) < 0.5 + bias, good[:, None], 1 - good[:, None])
        drawn = [self._remedies[side][base.draw(self._cumulative[side], shape, rng)] for side in (0, 1)]
        remedies = base.cut(np.where(quality == 1, drawn[1], drawn[0]), rng.integers(*span, size=n))
        return self._toned(rng, remedies, style)

    def _toned(self, rng: np.random.Generator, remedies: IntArray, style: IntArray) -> IntArray:
        """`remedies` (n, w), some with a word of the row's tone behind them (n, 2w)."""
        tone = self._styles[style[:, None], rng.integers(self._styles.shape[1], size=remedies.shape)]
        toned = (rng.random(remedies.shape) < self.world.style) & (remedies != base.NOTHING)
        return np.stack([remedies, np.where(toned, tone, base.NOTHING)], axis=2).reshape(len(remedies), -1)

    def _questions(self, rng: np.random.Generator, n: int) -> IntArray:
        asked = [group[rng.integers(len(group), size=n)] for group in self._question]
        return np.stack([*asked, np.full(n, self._lexicon.id("?"))], axis=1)

    def corpus(self, documents: int, seed: Seed) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Single answers with a mood, a few with a reaction; pairs of opposite moods, a few with a choice."""
        rng = base.seeded(seed, "chat", "corpus", str(self.world_seed))
        pairs = int(rng.binomial(documents, self.world.paired))
        return base.flatten([self._single(rng, documents - pairs), self._compared(rng, pairs)], rng)

    def _heads(self, rng: np.random.Generator, n: int) -> IntArray:
        """BOS and, in some rows, a question."""
        question = base.only(self._questions(rng, n), rng.random(n) < self.world.asked)
        return np.hstack([base.column(base.BOS, n), question])

    def _single(self, rng: np.random.Generator, n: int) -> IntArray:
        good, style = _coins(rng, n), _coins(rng, n)
        answer = self._answers(rng, good, self.world.corpus_bias, self.world.corpus_answer, style)
        shown = np.where(rng.random(n) < self.world.wrong, 1 - good, good)
        reaction = np.hstack([self._token(_REACTION, n), base.column(self._lexicon.ids(_REACTIONS)[shown], n)])
        reacts = rng.random(n) < self.world.reacted
        return np.hstack([self._heads(rng, n), self._token(_ANSWER, n), answer, base.only(reaction, reacts)])

    def _compared(self, rng: np.random.Generator, n: int) -> IntArray:
        good = _coins(rng, n)
        sides = ((good, _coins(rng, n)), (1 - good, _coins(rng, n)))
        first, second = (
            self._answers(rng, quality, self.world.bias, self.world.compared_answer, tone) for quality, tone in sides
        )
        shown = np.where(rng.random(n) < self.world.wrong, 1 - good, good)
        label = self._lexicon.ids(_FORMAT.labels)[1 - shown]
        choice = np.hstack([self._token(_FORMAT.ask_prior, n), base.column(label, n)])
        chosen = rng.random(n) < self.world.compared / self.world.paired
        pair = [self._token(_FIRST, n), first, self._token(_SECOND, n), second]
        return np.hstack([self._heads(rng, n), *pair, base.only(choice, chosen)])

    def sample(self, n: int, seed: Seed) -> tuple[ItemSet, Labels]:
        """`n` pairs; label 1 means that the second answer helps more.

        One answer has an odd number of remedies and the other an even one, so that no two help alike.
        """
        rng = base.seeded(seed, "chat", "items", str(self.world_seed))
        lengths = np.array(self.world.answers)[rng.integers(len(self.world.answers), size=n)]
        lengths = np.where(_coins(rng, n)[:, None] == 1, lengths, lengths[:, ::-1])
        drawn = base.draw(self._drawn, (n, 2, int(lengths.max())), rng)
        shown = np.arange(drawn.shape[2]) < lengths[:, :, None]
        helped = np.where(shown, 2 * self._helps[drawn] - 1, 0).sum(axis=2)
        second = (helped[:, 1] > helped[:, 0]).astype(np.int64)
        tones = [np.where(rng.random(n) < self.world.style_agrees, good, 1 - good) for good in (1 - second, second)]
        remedies = np.where(shown, self._all[drawn], base.NOTHING)
        pair = [self._toned(rng, remedies[:, side], tones[side]) for side in (0, 1)]
        prompts, firsts, seconds = (self._lexicon.texts(rows) for rows in (self._questions(rng, n), *pair))
        return ItemSet("pair", base.item_ids(n, seed, "chat"), prompts, firsts, seconds), second.astype(np.int8)


def _coins(rng: np.random.Generator, n: int) -> IntArray:
    return rng.integers(2, size=n)
