"""Which methods are one entrant: those that say the same of the same items, whatever their text says.

Teacher, seed and batch of a tier's i-th student are the same for all methods, so two methods can be compared answer by
answer. A number times one, a branch that is never taken, a rate that is changed in the tenth digit: no form of the text
shows these to be copies, their students do. The median over seeds counts, so that a method which does something else
on a few of them is told all the same; a seed that either failed says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from actors.evaluator.result_store import ScoredRun
from actors.evaluator.source import Method
from actors.evaluator.submissions import Submission
from actors.evaluator.tiers import Tier

SAME_SAYING = 0.0005
SAME_ANSWERS, ENOUGH_ANSWERS = 0.002, 1000
"""Most that the students of one entrant differ: in the probabilities that they give on average, or in the share of
answers where enough are compared (whoever scales what a student says changes no answer). Measured on generated math
(quick, 2,000 items, seed 0, of nineteen methods seed 1, too): labels times one, labels clipped at a millionth and a
rate changed by a ten-millionth moved probabilities by .000012 at most and no answer; of the 703 pairs of the 38
shipped methods the closest were `soft` and `reverse_kl` (.0023 and .0094; .003 and .0115 of the answers) and
`vanilla` and `ema` (.010 and .014; .0095 and .0105), the next .031 and .039; only `confident_threshold`, whose
threshold drops no item there, is `vanilla`. What lies between is taken for two: a rate changed by a thousandth (.003
to .005; .004). A method that draws seeds of its own differs from itself as methods do (.07 to .11), and counts as
two."""
COMPARED: tuple[Tier, ...] = ("board", "dev")

Found = Callable[[str, Tier], ScoredRun | None]
"""The counted run of a code hash on a tier, if there is one."""


def same(one: ScoredRun, other: ScoredRun) -> bool:
    """Whether the students of two runs on one tier say the same: at the median of the seeds that gave both a student.

    Not when that is no more than half of the seeds.
    """
    if one.hits.shape != other.hits.shape or one.says is None or other.says is None:
        return False
    both = [seed for seed in range(len(one.hits)) if seed not in one.failures and seed not in other.failures]
    if 2 * len(both) <= len(one.hits):
        return False
    saying = np.median(np.abs(one.says[both] - other.says[both]).mean(axis=1))
    answers = np.median((one.hits[both] != other.hits[both]).mean(axis=1))
    enough = one.hits[both].size >= ENOUGH_ANSWERS
    return bool(saying <= SAME_SAYING or (enough and answers <= SAME_ANSWERS))


class Entrants:
    """Tells copies among the methods of one domain. Reads runs that are in the result store and never asks for one."""

    def __init__(self, found: Found, baselines: Iterable[Method]) -> None:
        self._found, self._baselines = found, list(baselines)
        self._runs: dict[tuple[str, Tier], ScoredRun] = {}

    def _run(self, method: Method, tier: Tier) -> ScoredRun | None:
        """A run as it is in the result store, where it never changes."""
        key = (method.code_hash, tier)
        if key not in self._runs and (run := self._found(*key)) is not None:
            self._runs[key] = run
        return self._runs.get(key)

    def alike(self, one: Method, other: Method, tiers: Sequence[Tier] = COMPARED) -> bool:
        """Whether two methods are one: by their text, or by what they say on a tier where both were run."""
        if one.identity == other.identity:
            return True
        if not (one.entrant and other.entrant):
            return False  # students of other seeds say other things, whatever made them
        pairs = ((self._run(one, tier), self._run(other, tier)) for tier in tiers)
        return any(same(a, b) for a, b in pairs if a is not None and b is not None)

    def baseline(self, method: Method) -> Method | None:
        """The baseline that a method is, under another name or in another spelling."""
        return next((baseline for baseline in self._baselines if self.alike(method, baseline)), None)

    def first(self, method: Method, tier: Tier, answered: Iterable[Submission]) -> Submission | None:
        """The first of a tier's answered submissions that had an answer of its own and says what `method` says."""
        own = (s for s in answered if "same_as" not in s.answer and s.method.code_hash != method.code_hash)
        return next((s for s in own if self.alike(method, s.method, (tier,))), None)

    def leaders(self, order: Sequence[Method]) -> dict[str, Method]:
        """For each code hash the first method of `order` that it is alike; a leader is its own."""
        leaders: list[Method] = []
        found: dict[str, Method] = {}
        for method in order:
            leader = next((one for one in leaders if self.alike(method, one)), method)
            if leader is method:
                leaders.append(method)
            found[method.code_hash] = leader
        return found

    def failed(self, method: Method, tier: Tier) -> bool:
        """Whether a method was run on a tier and not one of its seeds gave a student."""
        run = self._run(method, tier)
        return run is not None and len(run.failures) == len(run.hits)
