"""Targets: what the student is trained towards, float (n,) = P(label 1). Pure functions of arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.models import FloatArray, sigmoid

CLIP = 0.02  # log odds beyond +-3.9 would let one opinion outvote any other


def hard(probs: npt.ArrayLike) -> FloatArray:
    """1.0 where P(label 1) is above a half, else 0.0."""
    return (np.asarray(probs) > 0.5).astype(np.float32)


def hard_at_rate(probs: npt.ArrayLike, rate: float) -> FloatArray:
    """1.0 for the `rate` of items with the highest P(label 1), else 0.0.

    For scores without a natural threshold; a rate of one half assumes that the classes are balanced. Items that tie at
    the cut get 0.
    """
    values = np.asarray(probs)
    return np.asarray(values > np.quantile(values, 1 - rate), dtype=np.float32)


def smooth(labels: FloatArray, share: npt.ArrayLike = 0.1) -> FloatArray:
    """Labels moved towards a half: (1 - share) y + share / 2; `share` a number or one for each item (n,).

    Label smoothing under label noise: Lukasik et al. 2020, arXiv 2003.02819.
    """
    part = np.asarray(share, dtype=np.float32)
    return np.asarray((1 - part) * labels + part / 2, dtype=np.float32)


def mix_prior(labels: FloatArray, prior: FloatArray, share: float = 0.5) -> FloatArray:
    """Pool two opinions in log odds: sigmoid((1 - share) logit(labels) + share logit(prior)), clipped at .02."""
    return sigmoid((1 - share) * logit(labels) + share * logit(prior))


def adaptive_smooth(labels: FloatArray, value: npt.ArrayLike, most: float = 0.4) -> FloatArray:
    """`smooth` with a share from 0 (the item of highest `value`) to `most` (the lowest), linear in the rank."""
    rank = np.asarray(value).argsort(kind="stable").argsort(kind="stable")
    return smooth(labels, most * (1 - rank / max(1, len(rank) - 1)))


def pool_teachers(members: npt.ArrayLike) -> FloatArray:
    """The mean (n,) of several teachers' P(label 1) (n, k): a soft-label ensemble (arXiv 2406.03199)."""
    given = np.asarray(members, dtype=np.float32)
    if given.ndim != 2:
        raise ValueError(f"members have shape {given.shape}, expected (items, teachers)")
    return np.asarray(given.mean(axis=1), dtype=np.float32)


def logit(probs: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Log odds of probabilities, clipped at .02 and .98."""
    clipped = np.clip(np.asarray(probs, dtype=np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(clipped / (1 - clipped)))


def code_length(labels: npt.ArrayLike, probs: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Bits (n,) that a model with P(label 1) = `probs` needs to say each label: -log2 P(label), clipped at .02.

    With probabilities of students that did not train on the item this is its description length, up to the model
    (prequential coding: Blier & Ollivier 2018, arXiv 1802.07044).
    """
    one = np.clip(np.asarray(probs, dtype=np.float64), CLIP, 1 - CLIP)
    return np.asarray(-np.log2(np.where(hard(labels) == 1, one, 1 - one)))
