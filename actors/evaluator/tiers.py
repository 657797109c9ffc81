"""What each tier draws and what its answers may reveal. Pure: a state goes in, a decision comes out.

DEV    a noised and rounded mean, the same for a method and its copies for ever; feedback that wears out and claims
       nothing. It orders, as it was answered, the finalists that were no new best on BOARD. Some of its labels are
       falsified (canaries): a method that has learnt them from answers is wrong where nobody honest is.
BOARD  one Ladder for the whole campaign (Blum and Hardt, arXiv 1502.04585, with a fixed step): an answer says only
       whether there is a new best, and its level in steps.
SEAL   exact, once, for methods that were frozen before.

The step eta = sqrt(ln k / 2n) keeps the false gain of k adaptive submissions at about one accuracy point for n around
1,300 (measured; rounding alone lets an attacker gain 27, a Ladder without a fixed step 16 to 31).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from actors.evaluator.secret import Secret
from actors.evaluator.statistics.variance import Hits
from cluster.config import Scoring
from cluster.errors import AarError

Tier = Literal["dev", "board", "seal"]
TIERS: tuple[Tier, ...] = ("dev", "board", "seal")
FIRST_TEACHER: dict[Tier, int] = {"dev": 0, "board": 10, "seal": 100}
"""Teachers are numbered; those of a tier serve every method on that tier, so that methods are compared pair by pair."""
FIRST_CEILING: dict[Tier, int] = {"dev": 0, "board": 0, "seal": 100}
CEILINGS: dict[Tier, int] = {"dev": 3, "board": 3, "seal": 5}
LADDER_Z = 2.0


def seeds_of(tier: Tier, scoring: Scoring) -> int:
    """Seeds of a counted run on `tier`."""
    return {"dev": scoring.dev_seeds, "board": scoring.board_seeds, "seal": scoring.seal_seeds}[tier]


def teachers_of(tier: Tier, scoring: Scoring) -> list[int]:
    """Teacher numbers of `tier`, one for each seed. Raises `AarError` when two tiers would share teachers."""
    count = seeds_of(tier, scoring)
    room = {"dev": 10, "board": 90, "seal": 10_000}[tier]
    if count > room:
        raise AarError(f"scoring.{tier}_seeds: {count} is too many; expected at most {room}")
    return list(range(FIRST_TEACHER[tier], FIRST_TEACHER[tier] + count))


def ceilings_of(tier: Tier) -> list[int]:
    """Ceiling numbers of `tier`; DEV and BOARD share theirs, SEAL has fresh ones."""
    return list(range(FIRST_CEILING[tier], FIRST_CEILING[tier] + CEILINGS[tier]))


def training_seed(secret: Secret, seeded_by: str, tier: Tier, domain: str, index: int) -> int:
    """The seed with which a method trains for the `index`-th time: nobody chooses it, and it never changes.

    The same for all methods, unless the campaign still draws one for each code (see `Method.seeded_by`).
    """
    return secret.seed("method", seeded_by, tier, domain, index)


def dev_accuracy(secret: Secret, identity: str, domain: str, mean: float, scoring: Scoring) -> float:
    """The accuracy that a DEV answer shows: noise drawn once for the method and all its copies, then rounded."""
    noised = mean + scoring.dev_noise * secret.normal("dev noise", identity, domain)
    steps = round(noised / scoring.dev_round)
    return min(1.0, max(0.0, round(steps * scoring.dev_round, 6)))


def answered_mean(hits: Hits, canaries: npt.NDArray[np.bool_]) -> float:
    """The mean accuracy that an answer rests on: `hits` (S, n) against labels that are wrong where `canaries` (n,) are.

    The falsified share f turns an accuracy a into a (1 - 2 f) + f, on average over all choices of canaries; that is
    undone, so that the answer is right on average for a method that has not seen the labels.
    """
    share = float(canaries.mean())
    return (float((hits ^ canaries).mean()) - share) / (1 - 2 * share)


def until_reply(now_s: float, grid_s: float) -> float:
    """Seconds until the next time at which answers are given: a multiple of `grid_s`. 0 without a grid."""
    return grid_s - now_s % grid_s if grid_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Ladder:
    """The board's whole state: the shown level, who reached it, and the step. Accuracies."""

    level: float
    holder: str
    step: float

    def consider(self, code_hash: str, mean: float, z: float) -> Ladder | None:
        """The next state when `mean` is a new best, else `None`.

        A new best is more than a step above the level, and paired z against the holder is above 2 (nan is not).
        Its level is `mean` rounded down to a multiple of the step, which never lowers it.
        """
        if not (mean > self.level + self.step and z > LADDER_Z):
            return None
        return Ladder(math.floor(mean / self.step) * self.step, code_hash, self.step)


def ladder_step(submissions: int, items: int) -> float:
    """The step for at most `submissions` answers over `items` items, in accuracy."""
    return math.sqrt(math.log(max(submissions, 2)) / (2 * items))
