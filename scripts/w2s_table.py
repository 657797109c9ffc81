"""Figures of weak-to-strong scores for people: PGR and accuracy with intervals, paired differences to vanilla."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.evaluator.statistics import Comparison, Interval, PgrEstimate, accuracy, compare, estimate_pgr, holm
from gpu_pool.weak_to_strong.experiment import Scores

Groups = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One method: accuracy, PGR, seconds of training a seed, paired accuracy difference to vanilla with Holm's p."""

    name: str
    accuracy: Interval
    seconds: float
    pgr: PgrEstimate | None = None
    versus: Comparison | None = None
    p: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; what is not known is null."""
        out: dict[str, Any] = {"name": self.name, "accuracy": self.accuracy.value, "seconds": self.seconds}
        out["accuracy_interval"] = _known(self.accuracy.low, self.accuracy.high)
        if self.pgr is not None:
            out |= {"pgr": _number(self.pgr.value), "pgr_interval": _known(self.pgr.low, self.pgr.high)}
            out["pgr_interval_method"] = self.pgr.method
        if self.versus is not None:
            out |= {"vs_vanilla": self.versus.difference, "p_holm": _number(self.p)}
            out["vs_vanilla_interval"] = _known(self.versus.low, self.versus.high)
        return out


def rows(weak: Scores, ceiling: Scores, methods: Sequence[Scores], groups: Groups) -> list[Row]:
    """Weak, ceiling, then each method. `groups` (items,) are the test items that hang together."""
    out = [Row(s.name, accuracy(s.hits, groups), float(s.seconds.mean())) for s in (weak, ceiling)]
    vanilla = next((s for s in methods if s.name == "vanilla"), None)
    against = {
        s.name: compare(s.hits, vanilla.hits, groups) for s in methods if vanilla is not None and s is not vanilla
    }
    adjusted = holm_of(against)
    for scores in methods:
        pgr = estimate_pgr(scores.hits, weak.hits, ceiling.hits, groups)
        own, seconds = accuracy(scores.hits, groups), float(scores.seconds.mean())
        p = adjusted.get(scores.name, math.nan)
        out.append(Row(scores.name, own, seconds, pgr, against.get(scores.name), p))
    return out


def holm_of(against: Mapping[str, Comparison]) -> dict[str, float]:
    """Two-sided p-values by name, Holm-adjusted over all of them; none where a single seed cannot give one."""
    known = {name: two_sided(c) for name, c in against.items() if not math.isnan(c.se)}
    return dict(zip(known, holm(list(known.values())), strict=True))


def two_sided(versus: Comparison) -> float:
    """The two-sided p-value of a paired comparison; 1 when the two never differ."""
    if versus.se == 0 and versus.difference == 0:
        return 1.0
    return min(1.0, 2 * min(versus.p, 1 - versus.p))


def table(shown: Sequence[Row]) -> str:
    """Markdown: accuracy, PGR with its 95 % interval, seconds of training, paired difference to vanilla with p."""
    compared = any(row.versus is not None for row in shown)
    head = [
        "",
        "accuracy",
        "PGR [95 %]",
        "training s",
        *(["accuracy - vanilla [95 %]", "p (Holm)"] if compared else []),
    ]
    body = [head, ["---"] * len(head), *(_cells(row, compared) for row in shown)]
    widths = [max(len(line[i]) for line in body) for i in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in body
    )


def _cells(row: Row, compared: bool) -> list[str]:
    cells = [row.name, f"{row.accuracy.value:.3f}", "" if row.pgr is None else shown_pgr(row.pgr), f"{row.seconds:.1f}"]
    if compared:
        versus, p = row.versus, "" if math.isnan(row.p) else f"{row.p:.4f}"
        cells += ["", ""] if versus is None else [between(versus.difference, versus.low, versus.high, sign="+"), p]
    return cells


def shown_pgr(pgr: PgrEstimate) -> str:
    """The PGR with its interval, or why there is none."""
    if math.isnan(pgr.value):
        return "no gap"
    return between(pgr.value, pgr.low, pgr.high, digits=2) + (" (gap unsure)" if pgr.method == "undefined" else "")


def between(value: float, low: float, high: float, *, digits: int = 3, sign: str = "") -> str:
    """A value with its interval, where that is known."""
    text = f"{value:{sign}.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _known(low: float, high: float) -> list[float] | None:
    return [low, high] if math.isfinite(low) and math.isfinite(high) else None
