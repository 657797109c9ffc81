"""The score: performance gap recovered."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def pgr(transfer: float, weak: float, ceiling: float) -> float:
    """(transfer - weak) / (ceiling - weak), accuracies on the same items (Burns et al. 2023); nan without a gap."""
    gap = ceiling - weak
    return (transfer - weak) / gap if gap > 0 else math.nan


def accuracy(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Share of items whose likelier label is right; probs (n, 2) or (n,) of P(label 1), a tie counts as label 0."""
    given = np.asarray(probs, dtype=np.float64)
    one = given if given.ndim == 1 else given[:, 1] - given[:, 0] + 0.5
    return float(np.mean((one > 0.5) == (np.asarray(labels) == 1)))
