"""The math and code domains: is this work right?

Work is a row of claims, each one word that is valid or not: `7*8=54` in math, `tidy_dbl:x*2` in code. Right work has
only valid claims. Validity is latent in the corpus: authors differ in skill, so invalid claims keep company, and a few
documents carry a grade that is often wrong. Style words agree with the truth only in part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from gpu_pool.weak_to_strong.domains import base, words
from gpu_pool.weak_to_strong.domains.base import DomainSpec, IntArray, Labels, Seed
from gpu_pool.weak_to_strong.formats import FORMATS, PromptFormat
from gpu_pool.weak_to_strong.items import ItemSet, Kind

_STRUCTURE = ("task", "work", "verdict", "grade", "right", "wrong", ".")
_CANDIDATES = 4  # candidate works of one problem

_OPERATIONS = {
    "inc": "x+1", "dec": "x-1", "dbl": "x*2", "tri": "x*3", "neg": "-x", "sqr": "x*x", "add2": "x+2", "add3": "x+3",
    "add5": "x+5", "sub2": "x-2", "sub3": "x-3", "half": "x//2", "mod7": "x%7", "mod5": "x%5", "abs": "abs(x)",
    "quad": "x*4",
}  # fmt: skip
_PREFIXES = words.listed(
    """
    do then apply use step fast safe my lib aux raw new old tmp fn op run get to tidy pure core hot cold big
    tiny pre post re un
    """
)


@dataclass(frozen=True, slots=True)
class VerifyWorld:
    """Knobs of the generator; shares are probabilities, spans are (at least, below)."""

    subject: Literal["math", "code"] = "math"
    claims: int = 450
    wrong_versions: int = 2
    skill: tuple[float, float] = (0.4, 0.97)  # a bad and a good author's share of valid claims
    good_authors: float = 0.55
    graded: float = 0.012
    grade_wrong: float = 0.3
    style: float = 0.25
    style_agrees: float = 0.65
    steps: tuple[int, int] = (5, 9)
    bad_steps: tuple[int, int] = (1, 2)
    question: tuple[int, int] = (2, 6)


class VerifyDomain:
    """The math or code world of one world seed."""

    kind: Kind = "binary"

    def __init__(self, spec: DomainSpec, world: VerifyWorld, world_seed: int) -> None:
        self.name: str = world.subject
        self.spec = spec
        self.world = world
        self.world_seed = world_seed
        rng = base.seeded(world_seed, world.subject, "world")
        claims = _math_claims(world, rng) if world.subject == "math" else _code_claims(world, rng)
        math = world.subject == "math"
        fillers = words.MATH_FILLERS if math else words.CODE_FILLERS
        styles = (words.MESSY_STYLE, words.NEAT_STYLE) if math else (words.SLOPPY_STYLE, words.CLEAN_STYLE)
        listed = (*base.SPECIAL, *_STRUCTURE, *styles[0], *styles[1], *fillers, *(w for row in claims for w in row))
        self.vocabulary: tuple[str, ...] = tuple(dict.fromkeys(listed))
        self._id = {word: i for i, word in enumerate(self.vocabulary)}
        self._claims = np.array([[self._id[word] for word in row] for row in claims])
        self._cumulative = np.cumsum(base.zipf(len(claims)))
        self._fillers = np.array([self._id[word] for word in dict.fromkeys(fillers)])
        self._styles = np.array([[self._id[word] for word in style] for style in styles])

    @property
    def prompt_format(self) -> PromptFormat:
        """The binary format."""
        return FORMATS["binary"]

    def tokenizer(self) -> Tokenizer:
        """The word-level tokenizer of its vocabulary."""
        return base.word_tokenizer(self.vocabulary)

    def _questions(self, rng: np.random.Generator, n: int) -> IntArray:
        low, high = self.world.question
        out = self._fillers[rng.integers(len(self._fillers), size=(n, high - 1))]
        return base.cut(out, rng.integers(low, high, size=n))

    def _work(self, rng: np.random.Generator, claims: IntArray, valid: IntArray, style: IntArray) -> IntArray:
        """Works (n, 2w) from claim numbers (n, w) and validity (n, w): column 0 of a claim is the valid version."""
        version = np.where(valid == 1, 0, rng.integers(1, self._claims.shape[1], size=claims.shape))
        tokens = np.where(claims == base.NOTHING, base.NOTHING, self._claims[claims, version])
        styled = self._styles[style[:, None], rng.integers(self._styles.shape[1], size=claims.shape)]
        shown = (rng.random(claims.shape) < self.world.style) & (claims != base.NOTHING)
        return np.stack([tokens, np.where(shown, styled, base.NOTHING)], axis=2).reshape(len(claims), -1)

    def corpus(self, documents: int, seed: Seed) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Works of good and bad authors, a quarter after a question, a few with a grade."""
        rng = base.seeded(seed, self.name, "corpus", str(self.world_seed))
        n = documents
        good = (rng.random(n) < self.world.good_authors).astype(np.int64)
        claims = base.cut(base.draw(self._cumulative, (n, 8), rng), rng.integers(4, 9, size=n))
        valid = (rng.random(claims.shape) < np.array(self.world.skill)[good][:, None]).astype(np.int64)
        all_valid = ((valid == 1) | (claims == base.NOTHING)).all(axis=1)
        grade = np.where(rng.random(n) < self.world.grade_wrong, ~all_valid, all_valid)
        graded = rng.random(n) < self.world.graded
        question = np.where((rng.random(n) < 0.25)[:, None], self._questions(rng, n), base.NOTHING)
        work = self._work(rng, claims, valid, rng.integers(2, size=n))
        word = np.where(grade, self._id["right"], self._id["wrong"])
        rows = np.hstack([
            base.column(base.BOS, n), question, base.column(self._id["work"], n), work,
            base.column(np.where(graded, self._id["grade"], base.NOTHING), n),
            base.column(np.where(graded, word, base.NOTHING), n), base.column(self._id["."], n),
        ])  # fmt: skip
        return base.flatten([rows], rng)

    def sample(self, n: int, seed: Seed) -> tuple[ItemSet, Labels]:
        """`n` works, `_CANDIDATES` to a problem, of equal claims; label 1 means every claim is valid."""
        rng = base.seeded(seed, self.name, "items", str(self.world_seed))
        problems = -(-n // _CANDIDATES)
        low, high = self.world.steps
        steps = np.repeat(rng.integers(low, high, size=problems), _CANDIDATES)
        numbers = np.repeat(base.draw(self._cumulative, (problems, high - 1), rng), _CANDIDATES, axis=0)
        questions = np.repeat(self._questions(rng, problems), _CANDIDATES, axis=0)
        right = rng.integers(2, size=len(steps))
        bad = np.where(right == 1, 0, rng.integers(*self.world.bad_steps, size=len(steps)))
        order = rng.random(numbers.shape)
        order[np.arange(high - 1) >= steps[:, None]] = 2.0
        valid = (order.argsort(axis=1).argsort(axis=1) >= bad[:, None]).astype(np.int64)
        style = np.where(rng.random(len(right)) < self.world.style_agrees, right, 1 - right)
        work = self._work(rng, base.cut(numbers, steps), valid, style)
        prompts, choices = (base.texts(block[:n], self.vocabulary) for block in (questions, work))
        items = ItemSet("binary", base.item_ids(n, seed, self.name), prompts, choices, ("",) * n)
        return items, right[:n].astype(np.int8)


def _math_claims(world: VerifyWorld, rng: np.random.Generator) -> list[list[str]]:
    """Equations with their near misses: the true value first."""
    grid = [(a, o, b) for o in "*+-" for a in range(2, 21) for b in range(2, 21) if o != "-" or b <= a]
    claims = []
    for index in rng.permutation(len(grid))[: world.claims]:
        a, sign, b = grid[index]
        true = {"*": a * b, "+": a + b, "-": a - b}[sign]
        near = sorted({true + 1, true - 1, true + 2, true + 10, max(0, true - 10)} - {true})
        wrong = rng.permutation(near)[: world.wrong_versions]
        claims.append([f"{a}{sign}{b}={value}" for value in (true, *wrong.tolist())])
    return claims


def _code_claims(world: VerifyWorld, rng: np.random.Generator) -> list[list[str]]:
    """Named helpers with their bodies: the right body first."""
    names = [name for op in _OPERATIONS for name in (op, *(f"{prefix}_{op}" for prefix in _PREFIXES))]
    claims = []
    for index in rng.permutation(len(names))[: world.claims]:
        body = _OPERATIONS[names[index].rsplit("_", 1)[-1]]
        wrong = rng.permutation([other for other in _OPERATIONS.values() if other != body])[: world.wrong_versions]
        claims.append([f"{names[index]}:{text}" for text in (body, *wrong.tolist())])
    return claims
