from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.observer.diversity import Ideas, alarm, points, reseeded, team_entropy
from cluster.objects import ObjectStore
from gpu_pool.weak_to_strong.families import FAMILIES

PROBE = b"def train(run):\n    return probe(run.hidden)\n"
LOSS = b"def train(run):\n    return run.fit(run.weak, run.config(loss=losses.logconf(0.5)))\n"


@given(st.dictionaries(st.integers(0, 30).map(str), st.lists(st.sampled_from(FAMILIES), min_size=1, unique=True)))
def test_the_entropy_of_a_team_lies_in_its_band_and_below_the_most_there_can_be(latest: dict[str, list[str]]) -> None:
    team = team_entropy(latest)
    used = {family for families in latest.values() for family in families}
    assert 0 <= team.low <= team.bits <= team.high <= math.log2(max(1, len(FAMILIES))) + 1e-9
    assert team.bits <= math.log2(max(1, len(used))) + 1e-9


def test_each_researcher_counts_once_with_its_families_in_equal_shares() -> None:
    assert team_entropy({"a": ["loss"], "b": ["UE"]}).bits == pytest.approx(1.0)
    assert team_entropy({"a": ["loss", "UE"], "b": ["loss", "UE"]}).bits == pytest.approx(1.0)
    assert team_entropy({str(n): [family] for n, family in enumerate(FAMILIES)}).bits == pytest.approx(math.log2(11))


def test_a_team_that_does_one_thing_has_collapsed_and_a_small_or_mixed_one_has_not() -> None:
    assert team_entropy({str(n): ["loss"] for n in range(9)}).collapsed
    assert team_entropy({str(n): ["loss"] for n in range(8)} | {"9": ["UE"]}).collapsed
    assert not team_entropy({str(n): ["loss"] for n in range(3)}).collapsed
    assert not team_entropy({str(n): [FAMILIES[n]] for n in range(9)}).collapsed
    assert not team_entropy({str(n): [FAMILIES[n % 3]] for n in range(9)}).collapsed


def test_an_alarm_follows_the_latest_code_of_every_researcher(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    probe, loss = (objects.put_tree({"method.py": source}) for source in (PROBE, LOSS))
    rows = [
        {"researcher": str(n), "snapshot": snapshot, "t_seconds": float(n), "event": n}
        for n, snapshot in enumerate([loss, probe] * 3)
    ]
    mixed = points(rows, objects)
    assert alarm(mixed) == ""
    assert mixed[-1]["team_entropy_bits"] == pytest.approx(1.0)
    turned = [{**row, "snapshot": probe, "t_seconds": 9.0, "event": 9} for row in rows]
    collapsed = points([*rows, *turned], objects)
    assert [point["collapsed"] for point in collapsed][-1]
    assert "6 active researchers, 0.00 bits" in alarm(collapsed)
    assert len(collapsed) == 9, "code that its researcher submitted before counts once"


UE = b"def train(run):\n    return run.fit(run.prior)\n"


def test_late_members_of_the_largest_family_are_moved_as_far_as_directions_reach(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    probe, loss, prior = (objects.put_tree({"method.py": source}) for source in (PROBE, LOSS, UE))
    ideas = Ideas(objects)
    assert reseeded(ideas, ["a"], ["x"]) == {}
    for researcher, snapshot in (("c", probe), ("b", loss), ("a", probe), ("d", prior), ("b", probe), ("e", probe)):
        ideas.add(researcher, snapshot)
    assert ideas.latest["b"] == ideas.latest["c"] == ["model internal"]
    everybody = ["a", "b", "c", "d", "e"]
    assert reseeded(ideas, everybody, ["x", "y", "z", "w"]) == {"a": "x", "b": "y", "e": "z"}, "c was the first"
    assert reseeded(ideas, ["b", "e"], ["x"]) == {"b": "x"}
    assert reseeded(ideas, everybody, []) == {}


def test_families_that_a_model_has_named_count_before_those_that_the_rule_reads(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    probe, loss = (objects.put_tree({"method.py": source}) for source in (PROBE, LOSS))
    rows = [{"researcher": s, "snapshot": s, "t_seconds": 0.0, "event": 1} for s in (probe, loss)]
    families = [point["families"] for point in points(rows, objects, {probe: ["UE", "ensemble"]})]
    assert families == [["UE", "ensemble"], ["loss"]]
