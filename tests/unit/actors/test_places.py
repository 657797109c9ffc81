"""Places and answers: copies of a method share one, and no method keeps others from theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.evaluator.audits import Auditor, AuditReport, InEarnest
from actors.evaluator.audits.verdicts import INFLUENCE, Outcome, Verdict
from actors.evaluator.domain_evaluator import DomainEvaluator
from actors.evaluator.finalist_selection import GIVES_WAY
from actors.evaluator.lease_client import WorkError
from actors.evaluator.result_store import ScoredRun, Usage
from actors.evaluator.scoring_runs import Payer
from actors.evaluator.source import Method, code_hash
from actors.evaluator.splits import TASK_VERSION
from actors.observer.audit_claims import audit_code, audit_seal
from actors.observer.audit_seeds import audit_seeds
from actors.observer.run_data import load_run
from gpu_pool.weak_to_strong.methods import registry
from tests.unit.actors.evaluator_world import World, source_of

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A prepared campaign, to be copied."""
    world = World(tmp_path_factory.mktemp("ready"), secret=SECRET, scoring={"seal_seeds": 3, "dev_limit": 40})
    asyncio.run(world.evaluator.prepare())
    world.store.close()
    return world


@pytest.fixture
def world(tmp_path: Path, ready: World) -> World:
    return World(tmp_path, ready)


def submit(world: World, source: str, who: str = "01-a", tier: str = "dev", name: str = "") -> dict[str, Any]:
    snapshot = world.objects.put_tree({"method.py": source.encode()})
    key = f"{who}/{tier}/{snapshot[:16]}"
    return asyncio.run(world.evaluator.submit(key, who, snapshot, name or f"by {who}", tier))


def hashed(source: str) -> str:
    return code_hash({"method.py": source.encode()}, TASK_VERSION)


def frozen(world: World) -> tuple[list[str], dict[str, str]]:
    """Who has the places, and why others were dropped, by code hash."""
    asyncio.run(world.evaluator.seal())
    (event,) = world.kinds("finalists_frozen")
    return [f["researcher"] for f in event["finalists"]], {d["code_hash"]: d["reason"] for d in event["dropped"]}


def test_another_spelling_gets_the_answer_of_the_first_without_a_run_or_a_charge(world: World) -> None:
    first = submit(world, source_of(0.83))
    leases = len(world.scheduler.requests)
    for number in range(5):
        copy = f"import math\nSALT = {number}\n{source_of(0.83)}\n{number}\n".replace("SKILL", f"SKILL{number}")
        assert submit(world, copy, f"0{number}-b") == first
    assert len(world.scheduler.requests) == leases
    assert len(world.scheduler.spent) == len(world.kinds("submission")) == 1


def test_whoever_says_the_same_gets_the_same_answer_and_no_place_on_the_board(world: World) -> None:
    first = submit(world, source_of(0.83, "TWIN = 1"))
    copy = submit(world, source_of(0.83, "TWIN = 1\nSALT = 2"), "02-b")
    assert (copy["accuracy"], copy["pgr"]) == (first["accuracy"], first["pgr"])
    assert copy["same_as"] == first["record_id"] != copy["record_id"]
    other = submit(world, source_of(0.83, "TWIN = 2"), "02-b")
    assert "same_as" not in other
    best = submit(world, source_of(0.92, "TWIN = 1"), tier="board")
    assert best["new_best"]
    again = submit(world, source_of(0.92, "TWIN = 1\nSALT = 3"), "02-b", tier="board")
    assert (again["new_best"], again["level"], again["same_as"]) == (False, None, best["record_id"])
    shown = {row["record_id"]: row["status"] for row in world.evaluator.record_summaries([copy["record_id"]])}
    assert shown[copy["record_id"]].endswith(f"says what {first['record_id']} says")
    run = load_run(world.paths.root)
    assert audit_code(run)[1] == audit_seeds(run)[1] == []


def test_ten_copies_have_one_place_and_a_baseline_in_disguise_has_none(world: World) -> None:
    for number in range(4):
        submit(world, source_of(0.9, f"TWIN = 1\nSALT = {number}"), f"0{number}-copy")
    for number in range(2):
        submit(world, source_of(0.9, f"TWIN = 1\nSALT = {number + 10}"), f"1{number}-copy", "board")
    submit(world, f"{registry.source_of('confident')}\n42\n", "05-base", "board")
    no_op = source_of(0.72, "TWIN = 'confident'")
    submit(world, no_op, "06-base")
    submit(world, source_of(0.66), "07-other")
    places, dropped = frozen(world)
    assert sorted(places) == ["07-other", "10-copy"]
    assert sum("they are one entrant" in reason for reason in dropped.values()) == 5
    assert dropped[hashed(no_op)] == "says what the baseline confident says"
    assert audit_seal(load_run(world.paths.root))[1] == []


def test_another_copy_has_the_place_only_when_the_first_is_out(world: World) -> None:
    world.scheduler.lose = {f"evaluator/audit/chat/{hashed(source_of(0.9, 'TWIN = 1'))}"}
    for number, extra in enumerate(("TWIN = 1", "TWIN = 1\nSALT = 1", "TWIN = 2")):
        submit(world, source_of(0.9 if number < 2 else 0.7, extra), f"0{number}-a")
    places, dropped = frozen(world)
    assert sorted(places) == ["01-a", "02-a"]
    assert "gave no student" in dropped[hashed(source_of(0.9, "TWIN = 1"))]


@pytest.mark.parametrize(
    ("open_pool", "votes", "taught", "expected", "gave_way"),
    [
        (True, 2, 2, ["02-taught", "03-taught"], 2),
        (True, 2, 1, ["00-vote", "02-taught"], 1),
        (True, 3, 0, ["00-vote", "01-vote"], 1),
        (False, 2, 2, ["00-vote", "01-vote"], 0),
    ],
)
def test_where_the_pool_gives_truth_away_who_needs_no_teacher_gives_way(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    open_pool: bool,
    votes: int,
    taught: int,
    expected: list[str],
    gave_way: int,
) -> None:
    who = [f"{n:02d}-{'vote' if n < votes else 'taught'}" for n in range(votes + taught)]
    for number, name in enumerate(who):
        submit(world, source_of(0.9 - 0.06 * number), name)

    reports: dict[str, AuditReport] = {}

    async def audit(_: Auditor, method: Method, own: InEarnest, weak: ScoredRun, payer: Payer) -> AuditReport:
        outcome: Outcome = "tag" if "vote" in method.name else "pass"
        verdict = Verdict(INFLUENCE, outcome, 0.0, 0.02, "")
        return reports.setdefault(method.code_hash, AuditReport(outcome, (verdict,), Usage((), 0, "A", "")))

    monkeypatch.setattr(Auditor, "audit", audit)
    monkeypatch.setattr(Auditor, "known", lambda _, code_hash: reports.get(code_hash))
    monkeypatch.setattr(DomainEvaluator, "pool_open", open_pool)
    places, dropped = frozen(world)
    assert places == expected
    assert list(dropped.values()) == [GIVES_WAY] * gave_way
    assert audit_seal(load_run(world.paths.root))[1] == []


def test_a_method_that_ends_every_lease_of_its_audit_is_out_and_the_seal_opens(world: World) -> None:
    killer = source_of(0.9)
    submit(world, killer, "01-a")
    submit(world, source_of(0.8), "02-b")
    world.scheduler.lose = {f"evaluator/audit/chat/{hashed(killer)}/1"}
    places, dropped = frozen(world)
    assert places == ["02-b"]
    assert "the method gave no student" in dropped[hashed(killer)]
    tried = [key for key in world.scheduler.requests if f"audit/chat/{hashed(killer)}/1" in key]
    assert len([key for key in tried if "control" not in key]) == 3
    assert len([key for key in tried if "control" in key]) == 1


def test_a_method_that_ends_its_leases_is_answered_as_failed_and_charged_once(world: World) -> None:
    killer = source_of(0.9)
    world.scheduler.lose = {f"evaluator/{tier}/chat/by 01-a/{hashed(killer)[:12]}" for tier in ("dev", "seal")}
    answer = submit(world, killer, "01-a")
    assert (answer["failed_seeds"], answer["error"]) == (3, "not reached before the lease ended")
    assert len(world.scheduler.spent) == 1
    assert frozen(world) == ([], {})


def test_a_finalist_that_ends_its_sealed_leases_fails_alone(world: World) -> None:
    killer = source_of(0.9)
    submit(world, killer, "01-a")
    submit(world, source_of(0.8), "02-b")
    world.scheduler.lose = {f"evaluator/seal/chat/by 01-a/{hashed(killer)[:12]}"}
    assert sorted(frozen(world)[0]) == ["01-a", "02-b"]
    sealed = {r["researcher"]: r for r in world.evaluator.records() if r["tier"] == "seal"}
    assert sealed["01-a"]["status"] == "failed"
    assert sealed["02-b"]["failed_seeds"] == []


def test_a_cluster_that_loses_everything_is_no_methods_fault(world: World) -> None:
    submit(world, source_of(0.9), "01-a")
    world.scheduler.lose = {"audit/chat/"}
    with pytest.raises(WorkError, match="control/audit/chat"):
        asyncio.run(world.evaluator.seal())
    world.scheduler.lose = set()
    world.start()
    assert frozen(world) == (["01-a"], {})


def test_a_campaign_of_before_keeps_a_seed_for_each_code(tmp_path: Path, ready: World) -> None:
    old = World(tmp_path, ready)
    with old.store.transaction() as db:
        db.execute("DELETE FROM once WHERE key = 'seeds are shared'")
        db.execute("ALTER TABLE submissions DROP COLUMN entrant")
    old.start()
    first = submit(old, source_of(0.83, "TWIN = 1"))
    assert "same_as" not in submit(old, source_of(0.83, "TWIN = 1") + "\n42\n", "02-b")
    record = old.evaluator.record(first["record_id"])
    assert record is not None
    assert "entrant" not in record
    assert audit_seeds(load_run(old.paths.root))[1] == []
