"""The judge with a scheduler that makes students up: preparing, answering, sealing."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from actors.evaluator.answers import REPLY_BYTES
from actors.evaluator.board import rank_finalists
from actors.evaluator.records import Record, verify
from actors.evaluator.source import Method
from actors.evaluator.submissions import Submission
from actors.evaluator.tiers import Tier
from cluster.errors import RefusedError
from cluster.wire import pack
from gpu_pool.leases import LeaseRequest, LeaseResult, Step, StepResult
from gpu_pool.weak_to_strong.items import ItemSet
from tests.unit.actors.evaluator_world import World, needles
from tests.unit.actors.test_records import a_record

A, B = "01-a", "02-b"
SECRET = bytes(range(32))
"""Fixed, because one secret in a hundred draws a noise that rounds to nothing."""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A prepared campaign, to be copied."""
    world = World(tmp_path_factory.mktemp("ready"), secret=SECRET)
    world.store.close()
    return world


@pytest.fixture
def world(tmp_path: Path, ready: World) -> World:
    """A prepared campaign of the test's own."""
    return World(tmp_path, ready)


@pytest.fixture
def fresh(tmp_path: Path) -> World:
    """A campaign that has not begun."""
    return World(tmp_path, secret=SECRET)


def submit(world: World, snapshot: str, tier: str = "dev", who: str = A, key: str = "") -> dict[str, Any]:
    key = key or f"{who}/{snapshot[:8]}/{tier}"
    return asyncio.run(world.evaluator.submit(key, who, snapshot, "a method", tier))


def test_prepare_scores_baselines_and_publishes_the_task(fresh: World) -> None:
    asyncio.run(fresh.evaluator.prepare())
    rows = {(r["tier"], r["method"]): r for r in fresh.evaluator.records()}
    assert set(rows) == {(t, m) for t in ("dev", "board") for m in ("weak", "ceiling", "vanilla")} | {
        ("board", "confident")
    }
    assert rows["board", "weak"]["accuracy"] == pytest.approx(0.62, abs=0.05)
    assert rows["board", "ceiling"]["accuracy"] == pytest.approx(0.93, abs=0.04)
    assert rows["board", "vanilla"]["pgr"] == pytest.approx(0.26, abs=0.15)
    assert rows["board", "vanilla"]["interval"][0] < rows["board", "vanilla"]["pgr"]
    public = fresh.paths.public / "chat"
    task = json.loads((public / "task.json").read_text())
    items = ItemSet.load(public / "items.arrow")
    assert task["n_items"] == len(items) == 40
    assert items == fresh.all_splits()[0].split("pool_a").items
    weak = load_file(public / "weak.safetensors")
    assert weak["probs"].shape == weak["members"].shape == (40, 2)
    assert load_file(public / "features.safetensors")["hidden"].shape[0] == 40
    assert (Path(task["strong_model"]) / "model.safetensors").is_file()
    key = (fresh.paths.root / "evaluator.pub").read_text()
    assert all(verify(record, key) for record in fresh.evaluator.records())


def test_prepare_is_done_once_and_models_are_shared_between_campaigns(fresh: World, tmp_path: Path) -> None:
    asyncio.run(fresh.evaluator.prepare())
    leases, events = len(fresh.scheduler.requests), len(fresh.journal.events())
    asyncio.run(fresh.evaluator.prepare())
    assert (len(fresh.scheduler.requests), len(fresh.journal.events())) == (leases, events)
    other = World(tmp_path / "second", pool={"cache_dir": str(tmp_path / "cache")})
    asyncio.run(other.evaluator.prepare())
    pretrained = [key for key in other.scheduler.requests if "/model/" in key]
    assert pretrained == []
    assert len([key for key in fresh.scheduler.requests if "/model/" in key]) == 2


def test_teachers_do_not_wait_for_the_strong_model(fresh: World) -> None:
    order: list[str] = []
    fresh.scheduler.before = lambda what, key: order.append(key)
    slow = fresh.scheduler.run

    async def run(request: LeaseRequest) -> LeaseResult:
        if request.key.endswith("strong/0"):
            await asyncio.sleep(0.3)
        return await slow(request)

    fresh.scheduler.run = run  # type: ignore[method-assign]
    asyncio.run(fresh.evaluator.prepare())
    strong = next(i for i, key in enumerate(order) if "/strong/" in key)
    assert all(i < strong for i, key in enumerate(order) if "weak/" in key)
    assert all(i > strong for i, key in enumerate(order) if "ceiling" in key or "features" in key)


def test_a_dev_answer_is_noised_charged_once_and_the_same_for_the_same_code(world: World) -> None:
    snapshot = world.method(0.83)
    answer = submit(world, snapshot)
    record = world.evaluator.record(answer["record_id"])
    assert record is not None
    assert answer["accuracy"] == pytest.approx(record["accuracy"], abs=0.09)
    assert answer["accuracy"] != record["accuracy"]
    assert (answer["seeds"], answer["failed_seeds"], answer["wear"]) == (3, 0, {"used": 1, "limit": 6})
    same = world.objects.put_tree({"method.py": b"# re-roll?\nSKILL = 0.83\n\n\ndef train(job):\n    return SKILL\n"})
    for who, again in ((A, snapshot), (B, snapshot), (B, same)):
        assert submit(world, again, who=who, key=f"other/{who}/{again[:8]}") == answer
    for who, other in ((B, snapshot), (A, same)):
        with pytest.raises(RefusedError) as caught:
            submit(world, other, who=who, key=f"other/{A}/{snapshot[:8]}")
        assert caught.value.reason == "key_reused"
    assert [account for account, _ in world.scheduler.spent.values()] == [f"campaign/researcher/{A}/evaluations"]
    assert len([key for key in world.scheduler.requests if "evaluator/dev/chat/a method" in key]) == 1


def test_an_answer_has_one_size_whatever_it_says_and_names_no_error_of_the_method(world: World) -> None:
    told = [submit(world, world.method(0.7 + i / 100, extra), "dev") for i, extra in enumerate(("", "FAIL = (0, 1)"))]
    told += [submit(world, world.method(skill), "board", B) for skill in (0.6, 0.9)]
    assert [answer["new_best"] for answer in told[2:]] == [False, True]
    assert {len(pack(answer)) for answer in told} == {REPLY_BYTES}
    assert told[3]["wear"] == {"used": 2, "limit": 4}
    world.scheduler._method = lambda *_: "Pool_b_item_7_is_yes: and so on"  # type: ignore[method-assign]
    assert submit(world, world.method(0.8))["error"] == "error"


def test_answers_are_given_at_fixed_times_only(tmp_path: Path) -> None:
    world = World(tmp_path, secret=SECRET, scoring={"reply_seconds": 0.5})
    snapshot = world.method(0.8)
    for tier in ("dev", "board"):
        submit(world, snapshot, tier)
        assert time.monotonic() % 0.5 < 0.1
    before = time.monotonic()
    submit(world, snapshot, "dev", B)
    assert time.monotonic() - before < 0.4, "what is known already tells nothing new"


def test_a_dev_answer_rests_on_falsified_labels_and_is_right_on_average(world: World) -> None:
    shown = [submit(world, world.method(0.85 + i / 1000)) for i in range(5)]
    exact = [world.evaluator.record(answer["record_id"]) for answer in shown]
    off = [a["accuracy"] - r["accuracy"] for a, r in zip(shown, exact, strict=True) if r]
    assert abs(np.mean(off)) < 0.05
    bench = world.evaluator._primary.known_bench("dev")
    assert int(bench.canaries.sum()) == round(150 / 13)
    assert not world.evaluator._primary.known_bench("board").canaries.any()


def test_the_answer_is_paid_and_journaled_before_anything_runs(world: World) -> None:
    seen: list[str] = []

    def watch(what: str, key: str) -> None:
        if what == "spend" or "a method" in key:
            seen.append(what)
            assert [e["name"] for e in world.kinds("submission")] == ["a method"]
            assert world.kinds("submission_answered") == []

    world.scheduler.before = watch
    submit(world, world.method(0.8))
    assert seen == ["spend", "run"]
    assert len(world.kinds("submission_answered")) == 1


def test_identical_submissions_at_the_same_time_join(world: World) -> None:
    snapshot = world.method(0.8)

    async def together() -> list[dict[str, Any]]:
        calls = [world.evaluator.submit(f"k{i}", (A, B)[i % 2], snapshot, "a method", "dev") for i in range(4)]
        return await asyncio.gather(*calls)

    answers = asyncio.run(together())
    assert all(answer == answers[0] for answer in answers)
    assert len(world.scheduler.spent) == 1


def test_a_failed_seed_counts_as_its_teacher_and_is_named(world: World) -> None:
    answer = submit(world, world.method(0.9, "FAIL = (1,)"))
    assert answer["failed_seeds"] == 1
    assert answer["error"] == "error: RuntimeError"
    record = world.evaluator.record(answer["record_id"])
    weak = next(r for r in world.evaluator.records() if (r["method"], r["tier"]) == ("weak", "dev"))
    assert record is not None
    assert record["failed_seeds"] == [1]
    assert record["per_seed"][1] == weak["per_seed"][1]
    assert record["per_seed"][0] > 0.8


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("student.safetensors: has 104857601 bytes, more than 100", "bad_output: too large"),
        ("student.safetensors: grew beyond 100 bytes while it was read", "bad_output: too large"),
        ("it wrote more than 4096 MiB", "bad_output: too large"),
        ("student.safetensors: is missing", "bad_output: missing"),
        ("student.safetensors: has 7 names", "bad_output: no regular file"),
        ("student.safetensors: is a symbolic link, or lies behind one", "bad_output: no regular file"),
    ],
)
def test_a_submitter_is_told_no_number_of_a_methods_making(world: World, said: str, told: str) -> None:
    real = world.scheduler._step

    def refused(folder: Path, step: Step, index: int, made: dict[str, Path]) -> StepResult:
        if step.entry != "method" or "SKILL" not in (Path(step.inputs["code"]) / "method.py").read_text():
            return real(folder, step, index, made)
        return StepResult(step.name, "bad_output", said, 0.1, 1.0, {}, "")

    world.scheduler._step = refused  # type: ignore[method-assign]
    assert submit(world, world.method(0.8))["error"] == told


def test_a_student_that_answers_nan_or_a_method_that_always_fails_scores_as_no_gain(world: World) -> None:
    for extra in ("NAN = True", "FAIL = (0, 1, 2)"):
        answer = submit(world, world.method(0.9, extra))
        record = world.evaluator.record(answer["record_id"])
        assert record is not None
        assert answer["failed_seeds"] == 3
        assert answer["error"]
        assert record["pgr"] == pytest.approx(0.0)
    assert world.evaluator.finalists() == []


def test_bad_tiers_unknown_snapshots_and_empty_accounts_are_refused_and_cost_nothing(world: World) -> None:
    for snapshot, tier, reason in (
        ("0" * 64, "dev", "unknown_snapshot"),
        (world.method(0.8), "seal", "bad_tier"),
        (world.method(0.8), "test", "bad_tier"),
    ):
        with pytest.raises(RefusedError) as caught:
            submit(world, snapshot, tier, key=reason + tier)
        assert caught.value.reason == reason
    world.scheduler.left["gpu_ms"] = 1000
    with pytest.raises(RefusedError, match="may take") as caught:
        submit(world, world.method(0.8), key="poor")
    assert caught.value.reason == "over_budget"
    assert world.scheduler.spent == {}
    assert world.kinds("submission_refused")[0]["reason"] == "over_budget"
    world.scheduler.left["gpu_ms"] = None
    with pytest.raises(RefusedError):
        submit(world, world.method(0.8), key="poor")
    assert submit(world, world.method(0.8), key="rich")["tier"] == "dev"


def test_an_account_without_answers_is_refused_before_the_run(world: World) -> None:
    world.scheduler.answer_cap[f"campaign/researcher/{A}/evaluations"] = 1
    submit(world, world.method(0.8))
    leases = len(world.scheduler.requests)
    with pytest.raises(RefusedError) as caught:
        submit(world, world.method(0.81))
    assert caught.value.reason == "over_budget"
    assert len(world.scheduler.requests) == leases
    assert submit(world, world.method(0.81), who=B)["wear"]["used"] == 2


def test_a_tier_is_exhausted_for_all_together_and_failures_count(world: World) -> None:
    for number in range(4):
        extra = "FAIL = (0, 1, 2, 3, 4)" if number % 2 else ""
        submit(world, world.method(0.6 + number / 100, extra), "board", (A, B)[number % 2])
    leases = len(world.scheduler.requests)
    with pytest.raises(RefusedError) as caught:
        submit(world, world.method(0.9), "board")
    assert (caught.value.reason, caught.value.detail["limit"]) == ("tier_exhausted", 4)
    assert len(world.scheduler.requests) == leases
    assert world.evaluator.status()["wear"]["board"] == {"used": 4, "limit": 4}


def test_the_board_tells_only_new_best_and_its_level(world: World) -> None:
    no = submit(world, world.method(0.70), "board")
    yes = submit(world, world.method(0.88), "board")
    worse = submit(world, world.method(0.80), "board")
    assert (no["new_best"], no["level"], no["pgr"]) == (False, None, None)
    assert (worse["new_best"], worse["level"]) == (False, None)
    assert yes["new_best"]
    step = world.kinds("ladder")[0]["step"]
    assert yes["level"] / step == pytest.approx(round(yes["level"] / step), abs=0.01)
    rows = world.evaluator.leaderboard()
    assert [row["record_id"] for row in rows if row["researcher"] == A] == [yes["record_id"]]
    assert {row["method"] for row in rows} == {"weak", "ceiling", "vanilla", "confident", "a method"}
    exact = world.evaluator.record(yes["record_id"])
    assert exact is not None
    for text in (str(rows), str(world.evaluator.record_summaries([no["record_id"], yes["record_id"]])), str(yes)):
        assert str(exact["accuracy"]) not in text
    assert world.evaluator.status()["board_moved_us"] > 0


def test_seal_freezes_runs_once_and_says_beats_only_with_grounds(world: World) -> None:
    for skill, tier in ((0.70, "dev"), (0.86, "dev"), (0.80, "dev"), (0.88, "board")):
        submit(world, world.method(skill), tier)
    vanilla = (Path("gpu_pool/weak_to_strong/methods/vanilla.py")).read_bytes()
    submit(world, world.objects.put_tree({"method.py": b"# mine\n" + vanilla}), "dev")
    sealed_before: list[str] = []

    def watch(what: str, key: str) -> None:
        if "seal/" in key and "weak/" not in key:
            sealed_before.append(key)
            assert len(world.kinds("candidates_ranked")) == 1
            assert len(world.kinds("finalists_frozen")) == 1 or "/a method/" not in key

    world.scheduler.before = watch
    result = asyncio.run(world.evaluator.seal())
    assert [key for key in sealed_before if "/a method/" in key]
    audits = [n for n, key in enumerate(world.scheduler.requests) if "audit/chat" in key]
    baselines = [n for n, key in enumerate(world.scheduler.requests) if "seal/chat/vanilla" in key]
    assert min(baselines) < max(audits), "slots are not idle while candidates are audited"
    frozen = world.kinds("finalists_frozen")[0]
    assert [f["snapshot"] for f in frozen["finalists"]] == [world.method(0.88), world.method(0.86)]
    assert len(frozen["comparisons"]) == 4
    records = [world.evaluator.record(record_id) for record_id in result["records"]]
    assert [r["status"] for r in records if r] == ["ahead (not established)"] * 2  # n = 300 is too few for a claim
    leases = len(world.scheduler.requests)
    world.start()
    assert asyncio.run(world.evaluator.seal()) == result
    assert len(world.scheduler.requests) == leases
    with pytest.raises(RefusedError) as caught:
        submit(world, world.method(0.77))
    assert caught.value.reason == "closed"
    assert {row["tier"] for row in world.evaluator.leaderboard()} == {"seal"}


def test_finalists_are_ordered_by_what_was_answered_and_never_by_what_was_measured() -> None:
    def tried(number: int, tier: Tier, exact: float, answer: dict[str, Any], failed: int = 0) -> tuple[Any, Record]:
        record = a_record(record_id=f"rec-{number}", accuracy=exact, failed_seeds=list(range(failed)))
        method = Method(f"s{number}", f"h{number}", "m")
        return Submission(number, f"k{number}", tier, "chat", method, A, "answered", f"rec-{number}", answer), record

    no: dict[str, Any] = {"new_best": False, "level": None}
    submissions = [
        tried(1, "board", 0.99, no),
        tried(2, "dev", 0.79, {"accuracy": 0.84}),
        tried(3, "dev", 0.83, {"accuracy": 0.80}),
        tried(4, "dev", 0.85, {"accuracy": 0.80}),
        tried(5, "board", 0.70, {"new_best": True, "level": 0.70}),
        tried(6, "board", 0.999, no),
        tried(7, "dev", 0.90, {"accuracy": 0.98}, failed=3),
        tried(8, "dev", 0.95, {"accuracy": 0.96}),
    ]
    ranked = rank_finalists(submissions, ["rec-5"], {"h8"})
    assert [submission.id for submission in ranked] == [5, 2, 3, 4, 1, 6]


def test_sixteen_seeds_establish_a_claim_in_each_domain_and_grade_b_never_does(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"task": {"domains": ["chat", "math"]}, "scoring": {"seal_seeds": 16}}
    world = World(tmp_path, **changes)
    submit(world, world.method(0.86))
    real = world.scheduler.run

    async def run(request: LeaseRequest) -> LeaseResult:
        return replace(await real(request), sandbox_grade="B" if "seal/math/a method" in request.key else "A")

    world.scheduler.run = run  # type: ignore[method-assign]
    result = asyncio.run(world.evaluator.seal())
    records = [r for r in map(world.evaluator.record, result["records"]) if r is not None]
    assert [(r["domain"], r["status"]) for r in records] == [("chat", "beats vanilla on chat"), ("math", "provisional")]
    assert records[1]["standing"]["reason"] == "sandbox grade B"
    assert {c["versus"] for c in records[0]["comparisons"]} == {"vanilla", "confident"}
    assert all(record["standing"]["p"] < 0.05 for record in records)
    assert set(result["task"]) == {"chat", "math"}


def test_null_methods_beat_nothing_and_better_than_the_ceiling_is_held_for_an_audit(tmp_path: Path) -> None:
    world = World(tmp_path, secret=bytes(range(32)), scoring={"seal_seeds": 16, "finalists": 3})
    for skill in (0.70, 0.701, 1.0):
        submit(world, world.method(skill))
    result = asyncio.run(world.evaluator.seal())
    assert not any("beats" in row["status"] for row in result["rows"])
    record = world.evaluator.record(result["records"][0])
    assert record is not None
    assert (record["status"], record["standing"]["reason"]) == ("unverified", "above the ceiling: to be audited")


def test_a_person_scores_one_method_without_a_campaign(fresh: World) -> None:
    snapshot = fresh.method(0.85)
    record = asyncio.run(fresh.evaluator.score("k", snapshot, "mine", "dev", "chat"))
    assert record["method"] == "mine"
    assert record["comparisons"][0]["versus"] == "vanilla"
    assert verify(record, (fresh.paths.root / "evaluator.pub").read_text())
    assert asyncio.run(fresh.evaluator.score("k2", snapshot, "mine", "dev", "chat")) == record
    sealed = asyncio.run(fresh.evaluator.score("k3", snapshot, "mine", "seal", "chat"))
    assert (sealed["tier"], sealed["seeds"], len(sealed["comparisons"])) == ("seal", 10, 2)
    with pytest.raises(RefusedError, match="not in this run"):
        asyncio.run(fresh.evaluator.score("k4", snapshot, "mine", "dev", "math"))
    submit(fresh, snapshot)
    with pytest.raises(RefusedError) as caught:
        asyncio.run(fresh.evaluator.score("k5", fresh.method(0.8), "mine", "dev", "chat"))
    assert caught.value.reason == "campaign_running"


def test_methods_train_on_both_pools_and_predict_steps_get_items_only(world: World) -> None:
    submit(world, world.method(0.8))
    request = next(r for key, r in world.scheduler.requests.items() if "a method" in key)
    train, predict = request.job.steps[:2]
    assert set(train.inputs) == {
        "code",
        "items.arrow",
        "weak.safetensors",
        "features.safetensors",
        "prior.safetensors",
        "strong",
    }
    assert len(ItemSet.load(Path(train.inputs["items.arrow"]))) == 80
    assert set(predict.inputs) == {"student.safetensors", "model", "items.arrow"}
    assert request.account == f"campaign/researcher/{A}/evaluations"
    weak = [step.inputs["weak.safetensors"] for step in request.job.steps if step.entry == "method"]
    assert [Path(path).name for path in weak] == ["weak-0.safetensors", "weak-1.safetensors", "weak-2.safetensors"]
    assert len({step.params["seed"] for step in request.job.steps if step.entry == "method"}) == 3
    assert not Path(predict.inputs["items.arrow"]).exists()


def test_scored_items_and_labels_exist_on_disk_only_while_their_lease_runs(fresh: World) -> None:
    modes: set[int] = set()

    def look(what: str, key: str) -> None:
        private = fresh.paths.judge / "leases"
        modes.update(p.stat().st_mode & 0o777 for p in private.rglob("*") if p.suffix in (".arrow", ".safetensors"))

    fresh.scheduler.before = look
    submit(fresh, fresh.method(0.8), "board")
    asyncio.run(fresh.evaluator.seal())
    assert modes <= {0o600, 0o644}  # 0644: the public corpus of pretraining
    left = [path.name for path in fresh.files() if path.is_relative_to(fresh.paths.judge)]
    assert not any(name.startswith(("sheet", "labels", "train")) for name in left)
    assert not (fresh.paths.judge / "leases").exists()
    assert fresh.paths.judge.stat().st_mode & 0o777 == 0o700


def test_no_truth_in_any_file_argument_answer_or_event(fresh: World) -> None:
    patterns = needles(fresh.all_splits()[0])
    seen = {"files": 0}

    def scan(private: bool) -> None:
        for path in fresh.files():
            if private or not path.is_relative_to(fresh.paths.judge):
                seen["files"] += 1
                data = path.read_bytes()
                assert not any(pattern in data for pattern in patterns), path

    def during(what: str, key: str) -> None:
        scan(private=False)

    fresh.scheduler.before = during
    fresh.scheduler.after = during
    answers = [submit(fresh, fresh.method(0.93), tier) for tier in ("dev", "board")]
    answers.append(asyncio.run(fresh.evaluator.seal()))
    scan(private=True)
    assert seen["files"] > 500
    spoken = pack([answers, [r.to_dict() for r in fresh.scheduler.requests.values()], fresh.evaluator.records()])
    spoken += pack([event.payload for event in fresh.journal.events()]) + pack(fresh.evaluator.status())
    assert not any(pattern in spoken for pattern in patterns)


def test_ceiling_hits_lie_in_the_store_encrypted_and_its_answers_are_deleted(fresh: World) -> None:
    asyncio.run(fresh.evaluator.prepare())
    run = fresh.evaluator._results.run("ceiling/chat/board")
    assert run is not None
    assert run.mean > 0.9
    stored = fresh.paths.evaluator_db.read_bytes() + Path(f"{fresh.paths.evaluator_db}-wal").read_bytes()
    assert np.packbits(run.hits).tobytes()[:16] not in stored
    assert [path for path in fresh.files() if path.is_relative_to(fresh.paths.leases)] != []
    kept = [str(p.relative_to(fresh.paths.leases)) for p in fresh.files() if p.is_relative_to(fresh.paths.leases)]
    assert not [path for path in kept if "ceiling" in path]


def test_a_lost_lease_is_asked_for_again_and_a_lost_cause_does_not_block_for_ever(fresh: World) -> None:
    fresh.scheduler.lose = {"ceiling/chat/dev+board/0-2/0", "ceiling/chat/dev+board/0-2/1"}
    asyncio.run(fresh.evaluator.prepare())
    assert [k for k in fresh.scheduler.requests if "ceiling" in k][-1].endswith("/2")
    fresh.scheduler.lose = {"a method"}
    from actors.evaluator.lease_client import WorkError

    with pytest.raises(WorkError, match="failed 3 times"):
        submit(fresh, fresh.method(0.8))
    fresh.scheduler.lose = set()
    fresh.start()
    assert submit(fresh, fresh.method(0.8))["failed_seeds"] == 0
    assert len(fresh.scheduler.spent) == 1
