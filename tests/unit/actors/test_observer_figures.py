"""A record's figures against each other: what may be undefined, and what may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.evaluator.records import finite
from actors.evaluator.statistics import estimate_pgr
from actors.observer.audit_figures import _gap


def record(**changes: Any) -> dict[str, Any]:
    figures = {"accuracy": 0.7, "weak_accuracy": 0.6, "ceiling_accuracy": 0.8, "tier": "seal", "domain": "lab"}
    return {**figures, "pgr": 0.5, "interval": [0.2, 0.8], "interval_method": "delta", **changes}


UNDEFINED = {"pgr": None, "interval": None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({**UNDEFINED, "interval_method": "undefined"}, ""),
        ({**UNDEFINED, "interval_method": "every seed failed"}, ""),
        (UNDEFINED, "PGR None"),
        ({"pgr": None, "interval_method": "undefined"}, "PGR None"),
        ({"pgr": 0.6}, "PGR 0.6"),
        ({**UNDEFINED, "interval_method": "undefined", "ceiling_accuracy": 0.5}, ""),
        ({"ceiling_accuracy": 0.5}, "PGR 0.5"),
    ],
)
def test_a_pgr_is_what_its_accuracies_give_or_undefined_where_the_gap_may_be_zero(
    changes: dict[str, Any], words: str
) -> None:
    found = next(_gap(record(**changes), {}), "")
    assert words in found
    assert bool(found) == bool(words)


def test_a_gap_that_may_be_zero_gives_such_a_record() -> None:
    """Two seeds and few items, as of a small task from files: the ceiling is above the teacher, by chance perhaps."""
    rng = np.random.default_rng(3)
    weak, ceiling = rng.random((2, 40)) < 0.55, rng.random((2, 40)) < 0.6
    student = rng.random((2, 40)) < 0.57
    found = estimate_pgr(student, weak, ceiling)
    assert ceiling.mean() > weak.mean()
    assert not found.defined
    mean = {"accuracy": student.mean(), "weak_accuracy": weak.mean(), "ceiling_accuracy": ceiling.mean()}
    shown = {"pgr": finite(found.value) if found.defined else None, "interval": None, "interval_method": found.method}
    assert next(_gap(record(**mean, **shown), {}), "") == ""
