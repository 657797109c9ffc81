"""Records: signed, numbered, written once, and silent about what researchers may not see."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from actors.evaluator.answers import public_record
from actors.evaluator.records import Record, RecordBook, Signer, canonical, verify
from actors.evaluator.secret import Secret
from actors.evaluator.seeds import seed_commitment
from cluster.journal import Journal, verify_chain
from cluster.store import Store, open_readonly

SECRET = Secret(bytes(range(32)))
COMMIT = partial(seed_commitment, SECRET)


def a_record(**changes: object) -> Record:
    standing = {"word": "tied", "versus": "vanilla", "p": 0.4, "diff": 0.01, "interval": [-0.02, 0.04]}
    record = Record(
        method="m",
        researcher="01-a",
        tier="dev",
        domain="chat",
        snapshot="s",
        code_hash="h",
        accuracy=0.7312345,
        accuracy_interval=[0.7, 0.76],
        pgr=0.41,
        interval=[0.3, 0.5],
        interval_method="delta",
        weak_accuracy=0.6,
        ceiling_accuracy=0.9,
        seeds=3,
        n=400,
        per_seed=[0.72, 0.73, 0.74],
        failed_seeds=[],
        status="tied",
        standing=standing,
        comparisons=[standing],
        audits=[],
        sandbox_grade="A",
        probe_hash="p",
        lease_ids=["l1"],
        gpu_ms=1000,
        cost=5,
        data_version="d",
    )
    return replace(record, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "evaluator.db")


def test_a_record_carries_a_signature_that_any_change_breaks(tmp_path: Path, store: Store) -> None:
    signer = Signer.load_or_create(tmp_path / "judge" / "signing.key")
    signed = RecordBook(store, Journal(store), signer, COMMIT).add("k", a_record()).to_dict()
    assert verify(signed, signer.public_hex)
    assert not verify({**signed, "pgr": 0.97}, signer.public_hex)
    assert not verify({**signed, "per_seed": [0.72, 0.73, 0.75]}, signer.public_hex)
    assert not verify({**signed, "extra": 1}, signer.public_hex)
    assert not verify({**signed, "signature": ""}, signer.public_hex)
    assert not verify(signed, Signer.load_or_create(tmp_path / "other.key").public_hex)
    assert not verify(signed, "nonsense")


def test_the_signature_does_not_depend_on_the_order_of_fields() -> None:
    assert canonical({"b": {"y": 1, "x": (1, 2)}, "a": 0}) == canonical({"a": 0, "b": {"x": [1, 2], "y": 1}})


def test_the_private_key_is_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "judge" / "signing.key"
    signer = Signer.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Signer.load_or_create(path).public_hex == signer.public_hex
    assert path.read_bytes().hex() not in repr(signer)


def test_records_are_numbered_written_once_and_journaled(tmp_path: Path, store: Store) -> None:
    journal = Journal(store)
    book = RecordBook(store, journal, Signer.load_or_create(tmp_path / "key"), COMMIT)
    first, second = book.add("a", a_record()), book.add("b", a_record(method="n"))
    assert (first.record_id, second.record_id) == ("rec-000001", "rec-000002")
    assert book.add("a", a_record(method="later")) == first
    assert [event.payload for event in journal.events(kind="record")] == [first.to_dict(), second.to_dict()]
    assert book.get("rec-000002") == second == book.by_key("b")
    assert book.some(["rec-000001", "nope", "rec-x", "rec-000009"]) == [first]
    assert book.get("rec-9") is None
    assert verify_chain(open_readonly(store.path)).broken is None


def test_a_researcher_sees_of_a_dev_record_only_what_the_answer_showed() -> None:
    shown = public_record(a_record(record_id="rec-000001"), {"accuracy": 0.74, "pgr": 0.47})
    assert (shown["accuracy"], shown["pgr"], shown["interval"]) == (0.74, 0.47, None)
    assert "0.7312345" not in str(shown)
    assert "per_seed" not in shown


def test_a_researcher_sees_of_a_board_record_only_its_level() -> None:
    record = a_record(tier="board")
    yes = public_record(record, {"new_best": True, "level": 0.72, "pgr": 0.4})
    no = public_record(record, {"new_best": False, "level": None, "pgr": None})
    assert (yes["accuracy"], yes["pgr"]) == (0.72, 0.4)
    assert (no["accuracy"], no["pgr"]) == (None, None)
    unanswered = public_record(record, None)
    assert unanswered["accuracy"] is None
    assert "0.7312345" not in str((yes, no, unanswered))


def test_sealed_and_campaign_records_are_public_in_full() -> None:
    for record in (a_record(tier="seal"), a_record(researcher="campaign")):
        shown = public_record(record, None)
        assert (shown["accuracy"], shown["interval"]) == (0.7312345, [0.3, 0.5])


def test_a_record_commits_to_its_seeds_and_to_no_others(tmp_path: Path, store: Store) -> None:
    book = RecordBook(store, Journal(store), Signer.load_or_create(tmp_path / "key"), COMMIT)
    signed = book.add("k", a_record()).to_dict()
    assert signed["seed_commitment"] == seed_commitment(SECRET, signed)
    others: list[dict[str, object]] = [{"code_hash": "g"}, {"tier": "board"}, {"domain": "math"}, {"seeds": 4}]
    references: list[dict[str, object]] = [{"code_hash": "", "method": "weak"}, {"code_hash": "", "method": "ceiling"}]
    made = {seed_commitment(SECRET, {**signed, **change}) for change in (*others, *references)}
    made.add(seed_commitment(Secret(bytes(32)), signed))
    assert len(made | {signed["seed_commitment"]}) == 8
