"""How different the ideas of a team are: idea families of submitted code, their entropy, and an alarm.

Pure functions. Families are read from code features, never from names or claims. The entropy of the team is over its
active researchers, as in the published experiment: each counts once, with the families of its latest code in equal
shares, so that one who submits much does not count for more.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.objects import ObjectError, ObjectStore
from gpu_pool.weak_to_strong.families import families_of_source

RECENT = 10
"""Submissions in the sliding window of diversity."""
DRAWS = 500
LEVEL = 0.9
"""Of the bootstrap band, as published."""
COLLAPSED_BITS = 1.0
"""Two effective families: below that, even at the upper end of the band, a team does one thing."""
LEAST_ACTIVE = 4
"""With fewer researchers, an entropy says nothing about a team."""


@dataclass(frozen=True, slots=True)
class Team:
    """Entropy over active researchers in bits, with its bootstrap band."""

    active: int
    bits: float
    low: float
    high: float

    @property
    def collapsed(self) -> bool:
        """Whether the team has collapsed onto one idea."""
        return self.active >= LEAST_ACTIVE and self.high < COLLAPSED_BITS


def entropy_bits(counts: Iterable[float]) -> float:
    """Shannon entropy of a distribution given by counts or weights, in bits; 0 for none."""
    positive = [count for count in counts if count > 0]
    total = sum(positive)
    return -sum(c / total * math.log2(c / total) for c in positive) + 0.0 if total else 0.0


def team_entropy(latest: Mapping[str, Sequence[str]], seed: int = 0) -> Team:
    """The entropy of a team whose researchers last used these families.

    The band holds 90 % of the entropies of teams drawn from the researchers with replacement (percentile bootstrap,
    Efron 1979). A drawn team repeats members, so its entropy leans low, and the band with it.
    """
    members = [families for _, families in sorted(latest.items()) if families]
    if not members:
        return Team(0, 0.0, 0.0, 0.0)
    rng = random.Random(seed)
    draws = sorted(_bits(rng.choices(members, k=len(members))) for _ in range(DRAWS))
    edge = int((1 - LEVEL) / 2 * DRAWS)
    bits = _bits(members)
    return Team(len(members), bits, min(bits, draws[edge]), max(bits, draws[-1 - edge]))


def _bits(members: Sequence[Sequence[str]]) -> float:
    weights: dict[str, float] = defaultdict(float)
    for families in members:
        for family in families:
            weights[family] += 1 / len(families)
    return entropy_bits(weights.values())


def points(submissions: Iterable[Mapping[str, Any]], objects: ObjectStore | None) -> list[dict[str, Any]]:
    """Diversity after each submission of code that was new to its researcher.

    `submissions` hold `researcher`, `snapshot`, `t_seconds` and `event`, oldest first. `entropy_bits` is over all
    families so far, each counted once per submission that uses it; `recent_entropy_bits` over the latest ten;
    `effective_families` is 2 to the entropy; `team_*` as `team_entropy`.
    """
    seen: set[tuple[str, str]] = set()
    history: list[list[str]] = []
    latest: dict[str, list[str]] = {}
    found: list[dict[str, Any]] = []
    for submission in submissions:
        researcher, snapshot = str(submission["researcher"]), str(submission["snapshot"])
        if objects is None or (researcher, snapshot) in seen:
            continue
        seen.add((researcher, snapshot))
        families = _families(objects, snapshot)
        history.append(families)
        latest[researcher] = families
        total = Counter(family for used in history for family in used)
        entropy = entropy_bits(total.values())
        recent = entropy_bits(Counter(f for used in history[-RECENT:] for f in used).values())
        team = team_entropy(latest, seed=len(history))
        found.append(
            {
                "t_seconds": submission["t_seconds"],
                "submissions": len(history),
                "researcher": researcher,
                "snapshot": snapshot,
                "families": families,
                "families_seen": len(total),
                "entropy_bits": entropy,
                "effective_families": 2**entropy,
                "recent_entropy_bits": recent,
                "recent_effective_families": 2**recent,
                "team_active": team.active,
                "team_entropy_bits": team.bits,
                "team_entropy_band": [team.low, team.high],
                "collapsed": team.collapsed,
                "event": submission["event"],
            }
        )
    return found


def alarm(found: Sequence[Mapping[str, Any]]) -> str:
    """What to say when the team has collapsed at the end of `points`, or ""."""
    if not found or not found[-1]["collapsed"]:
        return ""
    last = found[-1]
    return (
        f"ideas have collapsed: {last['team_active']} active researchers, {last['team_entropy_bits']:.2f} bits of idea "
        f"families (90 % band up to {last['team_entropy_band'][1]:.2f}); more distinct directions may help"
    )


def _families(objects: ObjectStore, snapshot: str) -> list[str]:
    try:
        source = objects.get_tree(snapshot).get("method.py", b"")
    except ObjectError:
        return ["other"]
    return families_of_source(source.decode("utf-8", "replace"))
