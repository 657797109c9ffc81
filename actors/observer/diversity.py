"""How different the ideas of a team are: idea families of submitted code, their entropy, and an alarm.

Families are read from code features, by a fixed rule or by a model that the campaign asks, never from claims. The
entropy of the team is over its active researchers, as in the published experiment: each counts once, with the families
of its latest code in equal shares, so that one who submits much does not count for more.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
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


def _bits(members: Iterable[Sequence[str]]) -> float:
    return entropy_bits(_weights(members).values())


def _weights(members: Iterable[Sequence[str]]) -> dict[str, float]:
    """Each family's share of the members, each of whom counts once."""
    weights: dict[str, float] = defaultdict(float)
    for families in members:
        for family in families:
            weights[family] += 1 / len(families)
    return weights


class Ideas:
    """The families of the latest code of each researcher, as submissions come in."""

    def __init__(self, objects: ObjectStore, named: Mapping[str, Sequence[str]] | None = None) -> None:
        """`named` are families by snapshot that a model has named; of all others a rule reads them from the code."""
        self._objects, self._named = objects, {} if named is None else named
        self._seen: set[tuple[str, str]] = set()
        self.latest: dict[str, list[str]] = {}
        self.joined: dict[tuple[str, str], int] = {}
        """When, counted in submissions, a researcher first used a family."""

    def add(self, researcher: str, snapshot: str) -> list[str] | None:
        """The families of a submission; `None` when its researcher had submitted this code before."""
        if (researcher, snapshot) in self._seen:
            return None
        self._seen.add((researcher, snapshot))
        families = self.latest[researcher] = list(self._named.get(snapshot) or self._read(snapshot))
        for family in families:
            self.joined.setdefault((researcher, family), len(self._seen))
        return families

    def _read(self, snapshot: str) -> list[str]:
        source = source_of(self._objects, snapshot)
        return ["other"] if source is None else families_of_source(source)

    def team(self) -> Team:
        """The entropy of the team as it stands."""
        return team_entropy(self.latest, seed=len(self._seen))


def reseeded(ideas: Ideas, able: Collection[str], free: Sequence[str]) -> dict[str, str]:
    """New directions by researcher after a collapse: members of the largest family, except the one who used it first,
    in the order in which they came to it; as far as they are `able` to move and directions are `free`.
    """
    weights = _weights(ideas.latest.values())
    if not weights:
        return {}
    largest = max(sorted(weights), key=weights.__getitem__)
    members = [researcher for researcher, families in ideas.latest.items() if largest in families]
    members.sort(key=lambda researcher: ideas.joined[researcher, largest])
    return dict(zip([researcher for researcher in members[1:] if researcher in able], free, strict=False))


def points(
    submissions: Iterable[Mapping[str, Any]],
    objects: ObjectStore | None,
    named: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, Any]]:
    """Diversity after each submission of code that was new to its researcher.

    `submissions` hold `researcher`, `snapshot`, `t_seconds` and `event`, oldest first. `entropy_bits` is over all
    families so far, each counted once per submission that uses it; `recent_entropy_bits` over the latest ten;
    `effective_families` is 2 to the entropy; `team_*` as `team_entropy`. `named` as in `Ideas`.
    """
    if objects is None:
        return []
    ideas, history = Ideas(objects, named), list[list[str]]()
    found: list[dict[str, Any]] = []
    for submission in submissions:
        researcher, snapshot = str(submission["researcher"]), str(submission["snapshot"])
        families = ideas.add(researcher, snapshot)
        if families is None:
            continue
        history.append(families)
        total = Counter(family for used in history for family in used)
        entropy = entropy_bits(total.values())
        recent = entropy_bits(Counter(f for used in history[-RECENT:] for f in used).values())
        team = ideas.team()
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
    return alarm_text(Team(last["team_active"], last["team_entropy_bits"], *last["team_entropy_band"]))


def alarm_text(team: Team) -> str:
    """The alarm in words, for people and for researchers."""
    return (
        f"ideas have collapsed: {team.active} active researchers, {team.bits:.2f} bits of idea families (90 % band up "
        f"to {team.high:.2f}); more distinct directions may help"
    )


def source_of(objects: ObjectStore, snapshot: str) -> str | None:
    """The source of a snapshot's method, or `None` when it is not there."""
    try:
        return objects.get_tree(snapshot).get("method.py", b"").decode("utf-8", "replace")
    except ObjectError:
        return None
