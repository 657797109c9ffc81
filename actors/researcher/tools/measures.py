"""What can be said of a student without a single true label.

None of these is an accuracy. They show a student that collapsed, one that copies its teacher, and, where student
and teacher disagree, whose side the strong model's own zero-shot prediction takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def label_free(probs: FloatArray, weak: FloatArray, prior: FloatArray) -> dict[str, Any]:
    """Measures over n held-out items, from the student's (n, 2) probabilities and two (n,) vectors of P(label 1).

    `agree_weak`, `agree_prior`: share of equal decisions. `confidence`: mean of the larger probability.
    `balance`: share of decisions for label 1, `weak_balance` the teacher's. `disagreements`: how often student
    and teacher differ; `prior_sides_with_student`: in which share of these the prior decides as the student does
    (None when there are none).
    """
    own, taught, before = probs[:, 1] > probs[:, 0], weak > 0.5, prior > 0.5
    differ = own != taught
    count = int(differ.sum())
    return {
        "held_out": len(own),
        "agree_weak": _rounded((own == taught).mean()),
        "agree_prior": _rounded((own == before).mean()),
        "confidence": _rounded(probs.max(axis=1).mean()),
        "balance": _rounded(own.mean()),
        "weak_balance": _rounded(taught.mean()),
        "disagreements": count,
        "prior_sides_with_student": _rounded((own == before)[differ].mean()) if count else None,
    }


def _rounded(value: Any) -> float:
    return round(float(value), 4)
