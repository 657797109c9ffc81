"""A choice of items in which figures that anybody can count are independent of the truth.

A probe is fitted to truth on the figures; each item stays with a probability that is the probe's chance of the *other*
class (overlap weights: Li, Morgan and Zaslavsky, JASA 2018). Right and wrong items with equal figures are then equally
frequent, so that no threshold on any figure that the probe knows separates them. Counts change when items go, so that
this is repeated on what is left, with fresh folds each time, until a probe finds no more than `MOST`.

What cannot be mended so: figures that *are* the truth. Then hardly any item contradicts them, too few would be left,
and the pool stays as it is; who asks is told what was found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from actors.evaluator.shortcuts.features import Texts
from actors.evaluator.shortcuts.probe import FOLDS, Found, ask, steps_of
from gpu_pool.weak_to_strong.items import ItemSet

Labels = npt.NDArray[np.int8]
Rows = npt.NDArray[np.int64]
MOST = 0.03
"""Accuracy beyond a half that the statistics of a pool may give."""
DOUBT = 2.0
"""Standard errors beyond `MOST` from which on a shortcut is taken as found. Items are given up without such doubt: few
go where a probe saw little."""
FEWEST = 200
"""Items without which a pool is no longer worth training on, and the share of the pool that must stay."""
FEWEST_SHARE = 0.1
ROUNDS = 6
_PROBES = 2
"""Divisions into folds whose probes are averaged."""
_WHOLE = 0.9
"""Quantile of the weights of a class that counts as one; without it a single odd item would thin out all others."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How much better than a half a probe tells the classes apart, both counting alike, and its standard error."""

    gain: float
    se: float

    def __str__(self) -> str:
        return f"{max(0.0, self.gain):.2f}".removeprefix("0")

    @property
    def found(self) -> bool:
        """Whether it is more than a pool may have."""
        return self.gain > MOST + DOUBT * self.se


@dataclass(frozen=True, slots=True)
class Balanced:
    """Which items (m,) of a pool stay, and its shortcut before and after; equal ones when all stay."""

    rows: Rows
    before: Shortcut
    after: Shortcut


def balance(items: ItemSet, labels: Labels, rng: np.random.Generator) -> Balanced:
    """Choose among `items` (n) with `labels` (n,); the same for the same items and state of `rng`.

    Takes a few seconds for 7,000 items of 2,000 characters.
    """
    member = np.ones(len(items), dtype=np.bool_)
    texts = Texts(items)
    before, found = _probed(texts, labels, member, rng)
    least = max(FEWEST, FEWEST_SHARE * len(items))
    now = before
    for _ in range(ROUNDS):
        if now.gain <= MOST:
            break
        member = member & _stays(found, labels, member, rng)
        if member.sum() < least or len(np.unique(labels[member])) < 2:
            break
        now, found = _probed(texts, labels, member, rng)
    if now.found or member.sum() < least or len(np.unique(labels[member])) < 2:
        return Balanced(np.arange(len(items)), before, before)
    return Balanced(np.flatnonzero(member), before, now)


def _probed(
    texts: Texts, labels: Labels, member: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Shortcut, Found]:
    """The mean of several probes, each with folds of its own."""
    steps, odd = steps_of(texts.figures(member), member, odd=texts.pair), texts.pair
    probes = [ask(steps, labels, rng.integers(0, FOLDS, len(labels)), member, odd=odd) for _ in range(_PROBES)]
    mean = replace(probes[0], chance=np.mean([probe.chance for probe in probes], axis=0))
    return Shortcut(float(np.mean([probe.gain for probe in probes])), probes[0].se), mean


def _stays(
    found: Found, labels: Labels, member: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Which items (n,) stay: each class is thinned out by the chance of the other, as a share of its own largest."""
    weight = np.where(labels == 1, 1 - found.chance, found.chance)
    drawn = rng.random(len(labels))
    stays = np.zeros(len(labels), dtype=np.bool_)
    for side in (0, 1):
        own = member & (labels == side)
        stays |= own & (drawn * np.quantile(weight[own], _WHOLE) < weight)
    return stays
