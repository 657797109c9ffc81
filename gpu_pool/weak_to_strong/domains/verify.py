"""The math and code domains: is this work more right than wrong?

Work is a row of claims, each one token that is valid or not: the step `7*8=54` of a worked solution, the line
`t += 7%4  # 2` of a program with its traced value. Work is right when more of its claims hold than not. Validity is
latent in the corpus: authors differ in skill, so invalid claims keep company, and a few documents carry a grade that is
often wrong. Remarks on a claim agree with the truth only in part.

    Work out 4 + 7*8 + 12-5 + 9+6 + 3*7 + 8*2     # count late orders
    Solution:                                     t = 4
    7*8=56                                        t += max(3,9)  # 9
    12-5=7 verified                               t += 7%4  # 2 todo
    9+6=15                                        t += 13//3  # 5
    3*7=27                                        t += 6^3  # 5 wip
    8*2=16                                        t += 9&8  # 6
    Verdict: right                                Verdict: wrong

Of an item each claim holds or not by a coin of its own. So its text is drawn without a look at the truth, and nothing
that can be counted in any number of items (words, what stands together, repetitions, lengths) tells which version of a
claim is the valid one; only remarks tell something of it, once a teacher has said which remarks are the good ones. Nor
is a sum of the claimed values shown, by which the words of an item in disguise could be told apart. In the corpus all
of this is otherwise: that is what a model knows from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from gpu_pool.weak_to_strong.domains import base
from gpu_pool.weak_to_strong.domains.base import DomainSpec, IntArray, Labels, Seed
from gpu_pool.weak_to_strong.domains.subjects import SUBJECTS
from gpu_pool.weak_to_strong.formats import PromptFormat
from gpu_pool.weak_to_strong.items import ItemSet, Kind

CANDIDATES = 5  # solutions of one problem
_TOTAL_DIGITS = 4
_CORPUS_CLAIMS = (4, 9)
_MORE_CLAIMS = (2, 5)


@dataclass(frozen=True, slots=True)
class VerifyWorld:
    """Knobs of the generator; shares are probabilities, spans are (at least, below)."""

    subject: str = "math"
    claims: int = 450
    wrong_versions: int = 1
    skill: tuple[float, float] = (0.4, 0.97)  # a bad and a good author's share of valid claims
    good_authors: float = 0.55
    framed: float = 0.25  # documents that show the problem, a total, and more work behind it
    graded: float = 0.012
    grade_wrong: float = 0.3
    swayed: float = 0.0  # grades that follow the remarks' tone instead of the work
    style: float = 0.25
    style_agrees: float = 0.65
    steps: tuple[int, ...] = (5, 7)  # claims of an item: odd, so that more hold than not, or fewer


class VerifyDomain:
    """The math or code world of one world seed."""

    kind: Kind = "binary"

    def __init__(self, spec: DomainSpec, world: VerifyWorld, world_seed: int) -> None:
        self.name: str = world.subject
        self.spec = spec
        self.world = world
        self.world_seed = world_seed
        self._subject = SUBJECTS[world.subject]
        claims = self._subject.claims(world.claims, world.wrong_versions, base.seeded(world_seed, self.name, "world"))
        self._lexicon = self._subject.lexicon(claims)
        ids = self._lexicon.ids
        self._terms = ids(claim.term for claim in claims) if self._subject.shows_terms else None
        self._claims = np.stack([ids(claim.versions) for claim in claims])
        self._values = np.array([claim.values for claim in claims])
        self._styles = np.stack([ids(remarks) for remarks in self._subject.remarks])
        self._labels = ids(self.prompt_format.labels)
        self._title = [ids(words) for words in self._subject.title]
        self._cumulative = np.cumsum(base.zipf(len(claims)))

    @property
    def prompt_format(self) -> PromptFormat:
        """The binary format: problem, work, verdict."""
        return self._subject.prompt_format

    def sibling(self, world_seed: int, spec: DomainSpec) -> VerifyDomain:
        """The same subject in another world."""
        return VerifyDomain(spec, self.world, world_seed)

    def tokenizer(self) -> Tokenizer:
        """Its byte-level tokenizer; each claim is one token."""
        return self._lexicon.tokenizer()

    def interchangeable(self) -> tuple[IntArray, ...]:
        """Claims in all their versions, terms of problems, remarks, words of titles, digits."""
        terms = () if self._terms is None else (self._terms,)
        return (self._claims.ravel(), *terms, self._styles.ravel(), *self._title, self._lexicon.ids("0123456789"))

    def _token(self, piece: str, n: int) -> IntArray:
        return base.column(self._lexicon.id(piece), n)

    def _problems(self, rng: np.random.Generator, start: IntArray, claims: IntArray) -> IntArray:
        """What the work is about (n, w): its sum where the subject shows it, else a title."""
        if self._terms is not None:
            terms = np.where(claims == base.NOTHING, base.NOTHING, self._terms[claims])
            return np.hstack([self._lexicon.digits(start, 1), terms])
        return np.stack([words[rng.integers(len(words), size=len(start))] for words in self._title], axis=1)

    def _work(
        self, rng: np.random.Generator, start: IntArray, claims: IntArray, valid: IntArray, style: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Works (n, v) and their totals (n, u) from claim numbers (n, w) and validity (n, w).

        Version 0 of a claim is the valid one; the total sums the claimed values, valid or not.
        """
        n, shown = len(claims), claims != base.NOTHING
        version = np.where(valid == 1, 0, rng.integers(1, self._claims.shape[1], size=claims.shape))
        tokens = np.where(shown, self._claims[claims, version], base.NOTHING)
        remark = self._styles[style[:, None], rng.integers(self._styles.shape[1], size=claims.shape)]
        remarked = shown & (rng.random(claims.shape) < self.world.style)
        lines = np.stack([tokens, np.where(remarked, remark, base.NOTHING)], axis=2).reshape(n, -1)
        total = start + np.where(shown, self._values[claims, version], 0).sum(axis=1)
        if not self._subject.shows_terms:
            lines = np.hstack([self._lexicon.digits(start, 1), lines])
        lines = np.hstack([self._token(self._subject.frame[1], n), lines])
        closing = self._token(self._subject.closing, n)
        return lines, np.hstack([closing, self._lexicon.digits(total, _TOTAL_DIGITS)])

    def corpus(self, documents: int, seed: Seed) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Works of good and bad authors. Some show the problem and the total, and begin another work after it, so that
        skill matters beyond a total; a few end with a grade.
        """
        rng = base.seeded(seed, self.name, "corpus", str(self.world_seed))
        n = documents
        good = (rng.random(n) < self.world.good_authors).astype(np.int64)
        skill = np.array(self.world.skill)[good][:, None]
        framed, graded = rng.random(n) < self.world.framed, rng.random(n) < self.world.graded
        claims = self._draw_claims(rng, n, _CORPUS_CLAIMS)
        more = base.only(self._draw_claims(rng, n, _MORE_CLAIMS), framed)
        valid, more_valid = ((rng.random(c.shape) < skill).astype(np.int64) for c in (claims, more))
        sound = _margin(claims, valid) + _margin(more, more_valid) > 0
        start, style = _starts(rng, n), rng.integers(2, size=n)
        verdict = np.where(rng.random(n) < self.world.swayed, style, sound)
        grade = np.where(rng.random(n) < self.world.grade_wrong, 1 - verdict, verdict)
        problem = self._problems(rng, start, claims)
        work, total = self._work(rng, start, claims, valid, style)
        again, _ = self._work(rng, _starts(rng, n), more, more_valid, style)
        asked = [self._token(self.prompt_format.ask_prior, n), self._labels[grade][:, None]]
        rows = np.hstack([
            base.column(base.BOS, n), base.only(np.hstack([self._token(self._subject.frame[0], n), problem]), framed),
            work, base.only(np.hstack([total, again]), framed), base.only(np.hstack(asked), graded),
        ])  # fmt: skip
        return base.flatten([rows], rng)

    def _draw_claims(self, rng: np.random.Generator, n: int, span: tuple[int, int]) -> IntArray:
        """Claim numbers (n, w), a random count of `span` in each row."""
        drawn = base.draw(self._cumulative, (n, span[1] - 1), rng)
        return base.cut(drawn, rng.integers(*span, size=n))

    def sample(self, n: int, seed: Seed) -> tuple[ItemSet, Labels]:
        """`n` solutions, `CANDIDATES` to a problem, of equal claims; label 1 means that more claims hold than not."""
        rng = base.seeded(seed, self.name, "items", str(self.world_seed))
        problems = -(-n // CANDIDATES)
        counts = np.array(self.world.steps)[rng.integers(len(self.world.steps), size=problems)]
        numbers = base.cut(base.draw(self._cumulative, (problems, max(self.world.steps)), rng), counts)
        starts = _starts(rng, problems)
        texts = self._lexicon.texts(self._problems(rng, starts, numbers))
        prompts = tuple(text for text in texts for _ in range(CANDIDATES))[:n]
        claims, start = np.repeat(numbers, CANDIDATES, axis=0), np.repeat(starts, CANDIDATES)
        valid = rng.integers(2, size=claims.shape)
        right = (_margin(claims, valid) > 0).astype(np.int64)
        style = np.where(rng.random(len(right)) < self.world.style_agrees, right, 1 - right)
        choices = self._lexicon.texts(self._work(rng, start, claims, valid, style)[0][:n])
        items = ItemSet("binary", base.item_ids(n, seed, self.name), prompts, choices, ("",) * n)
        return items, right[:n].astype(np.int8)


def _starts(rng: np.random.Generator, n: int) -> IntArray:
    return rng.integers(1, 10, size=n)


def _margin(claims: IntArray, valid: IntArray) -> IntArray:
    """How many more claims of a row (n, w) hold than not, (n,)."""
    return np.asarray(np.where(claims == base.NOTHING, 0, 2 * valid - 1).sum(axis=1))
