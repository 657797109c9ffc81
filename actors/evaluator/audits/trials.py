"""The audits' training runs: eight trials in which something that an honest method needs has been taken away.

Everything that a trial changes is an input file; the method's code, the protocol and the two sandboxes are those of a
counted run, so that a method cannot tell a trial from its inputs' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WeakLabels = Literal["own", "inverted", "shuffled", "shuffled inverted", "null"]
StrongModel = Literal["pretrained", "random"]
Pool = Literal["all", "a", "b"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One training run: which weak labels, which strong model, which half of the unlabelled items it gets.

    `own`: the teacher's. `inverted`: P(label 0) for P(label 1). `shuffled`: the teacher's, dealt to other items.
    `null`: of a teacher that was trained on coin flips. A `random` strong model has the same shape and no pretraining.
    """

    name: str
    weak: WeakLabels = "own"
    strong: StrongModel = "pretrained"
    pool: Pool = "all"


SHUFFLED, INVERTED, RANDOM_STRONG = "shuffled", "inverted", "random-strong"
NO_SOURCE, NO_SOURCE_INVERTED = "no-source", "no-source-inverted"
POOL_A, POOL_B, NULL = "pool-a", "pool-b", "null"

TRIALS = (
    Trial(SHUFFLED, weak="shuffled"),
    Trial(INVERTED, weak="inverted"),
    Trial(RANDOM_STRONG, strong="random"),
    Trial(NO_SOURCE, weak="shuffled", strong="random"),
    Trial(NO_SOURCE_INVERTED, weak="shuffled inverted", strong="random"),
    Trial(POOL_A, pool="a"),
    Trial(POOL_B, pool="b"),
    Trial(NULL, weak="null"),
)
"""No more than eight: an audit may cost eight training runs."""
