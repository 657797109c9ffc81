"""Statistics of weak-to-strong scores. Pure functions of hits: no truth, no Ray, no torch.

`hits` is a boolean array (seeds S, items n): whether the student of that seed judged that item rightly. Scores that are
compared share the items (columns) and, where it says paired, the teachers (rows). Uncertainty always counts both: which
seeds were drawn and which items were drawn, because an interval over seeds alone covers the truth in 60 to 90 of 100
cases instead of 95.
"""

from __future__ import annotations

from actors.evaluator.statistics.bootstrap import bootstrap_pgr
from actors.evaluator.statistics.gap import Interval, PgrEstimate, accuracy, estimate_pgr
from actors.evaluator.statistics.paired import Comparison, compare, holm
from actors.evaluator.statistics.power import detectable
from actors.evaluator.statistics.ranks import Shrunken, shrink
from actors.evaluator.statistics.variance import Part, over_items, over_seeds, pooled

__all__ = [
    "Comparison",
    "Interval",
    "Part",
    "PgrEstimate",
    "Shrunken",
    "accuracy",
    "bootstrap_pgr",
    "compare",
    "detectable",
    "estimate_pgr",
    "holm",
    "over_items",
    "over_seeds",
    "pooled",
    "shrink",
]
