"""What math and code differ in: their claims, words and layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpu_pool.weak_to_strong.domains import words
from gpu_pool.weak_to_strong.domains.lexicon import Lexicon
from gpu_pool.weak_to_strong.formats import PromptFormat

_LABELS = (" wrong", " right")
_MISS = 12  # a wrong value is off by that much at most; many misses make wrong totals differ from each other
_WORD = r" ?[A-Za-z]+"
_HEADING = r"\n[A-Za-z]+:"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: what is computed, and the pieces and values of its versions, the valid one first."""

    term: str
    versions: tuple[str, ...]
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of work. `frame` are the pieces before a problem and between problem and work, `closing` the one before
    the total.
    """

    prompt_format: PromptFormat
    frame: tuple[str, str]
    closing: str
    remarks: tuple[tuple[str, ...], tuple[str, ...]]  # of wrong and of right work, mostly
    title: tuple[tuple[str, ...], ...]
    patterns: tuple[str, ...]
    make_claims: Callable[[], list[tuple[str, int]]]
    term: str
    version: str

    @property
    def shows_terms(self) -> bool:
        """Whether the problem is the sum itself, not a title."""
        return not self.title

    def claims(self, count: int, wrong: int, rng: np.random.Generator) -> list[Claim]:
        """`count` claims in random order, each with `wrong` near misses."""
        pool = self.make_claims()
        chosen = [pool[int(i)] for i in rng.permutation(len(pool))[:count]]
        return [self._claim(expression, value, wrong, rng) for expression, value in chosen]

    def _claim(self, expression: str, value: int, wrong: int, rng: np.random.Generator) -> Claim:
        near = [value + miss for miss in range(-_MISS, _MISS + 1) if miss and value + miss >= 0]
        values = (value, *(int(v) for v in rng.permutation(near)[:wrong]))
        versions = tuple(self.version.format(expression, v) for v in values)
        return Claim(self.term.format(expression), versions, values)

    def lexicon(self, claims: Sequence[Claim]) -> Lexicon:
        """All pieces of a world with these claims."""
        fmt = self.prompt_format
        fixed = (*self.frame, self.closing, fmt.ask, fmt.ask_prior, *fmt.labels)
        told = [w for group in (*self.remarks, *self.title) for w in group]
        terms = [claim.term for claim in claims] if self.shows_terms else []
        return Lexicon([*fixed, *told, *terms, *(v for claim in claims for v in claim.versions)], self.patterns)


def _sums() -> list[tuple[str, int]]:
    grid = [(a, b) for a in range(2, 21) for b in range(2, 13)]
    found = [(f"{a}*{b}", a * b) for a, b in grid] + [(f"{a}+{b}", a + b) for a, b in grid]
    return found + [(f"{a}-{b}", a - b) for a, b in grid if b < a]


def _expressions() -> list[tuple[str, int]]:
    pairs = [(a, b) for a in range(5, 21) for b in range(2, 8) if a > b]
    found = [(f"{a}%{b}", a % b) for a, b in pairs] + [(f"{a}//{b}", a // b) for a, b in pairs]
    found += [(f"{a}^{b}", a ^ b) for a, b in pairs] + [(f"{a}&{b}", a & b) for a, b in pairs]
    found += [(f"max({b},{a})", a) for a, b in pairs] + [(f"min({a},{b})", b) for a, b in pairs]
    found += [(f"abs({b}-{a})", a - b) for a, b in pairs] + [(f"{a}<<{b}", a << b) for a, b in pairs if b < 4]
    return found + [(f"len('{word.strip()}')", len(word.strip())) for word in words.TITLE_NOUNS]


SUBJECTS = {
    "math": Subject(
        prompt_format=PromptFormat(
            "Work out {prompt}\n{first}", "\nVerdict:", "\nGrade:", _LABELS
        ),
        frame=("Work out ", "\nSolution:"),
        closing="\nTotal: ",
        remarks=(words.MESSY_REMARKS, words.NEAT_REMARKS),
        title=(),
        patterns=(r"\nTotal: ", r"\n?\d+[*+-]\d+=\d+", r" \+ \d+[*+-]\d+", r"Work out ", _HEADING, _WORD),
        make_claims=_sums,
        term=" + {}",
        version="\n{}={}",
    ),
    "code": Subject(
        prompt_format=PromptFormat("# {prompt}\n{first}", "\nVerdict:", "\nGrade:", _LABELS),
        frame=("#", "\nt = "),
        closing="\nprint(t)  # ",
        remarks=(words.SLOPPY_REMARKS, words.CLEAN_REMARKS),
        title=(words.TITLE_VERBS, words.TITLE_ADJECTIVES, words.TITLE_NOUNS),
        patterns=(r"\nt \+= [^\s#]+  # \d+", r"\nt = ", r"\nprint\(t\)  # ", _HEADING, _WORD),
        make_claims=_expressions,
        term="{}",
        version="\nt += {}  # {}",
    ),
}  # fmt: skip
