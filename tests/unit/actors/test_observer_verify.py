from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.observer.finding import Finding
from actors.observer.run_data import NoRunError, load_run
from actors.observer.summary import write_summary
from actors.observer.verify import verify_run
from cluster.journal import GENESIS, link_hash
from cluster.wire import pack, unpack
from tests.unit.actors.observer_run import campaign

Edit = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "demo"
    campaign(root, researchers=2, rounds=1).close()
    write_summary(load_run(root))
    return root


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "demo"))


def sql(path: Path, statement: str, *params: object) -> None:
    db = sqlite3.connect(path)
    db.execute(statement, params)
    db.commit()
    db.close()


def rewrite(path: Path, edit: Edit) -> None:
    """Change the journal as one who can write the file would: the chain is hashed again from the start."""
    db = sqlite3.connect(path)
    columns = ("seq", "at_us", "kind", "payload")
    events = [
        dict(zip(columns, row, strict=True)) for row in db.execute("SELECT seq, at_us, kind, payload FROM journal")
    ]
    for event in events:
        event["payload"] = unpack(event["payload"])
    edit(events)
    db.execute("DELETE FROM journal")
    prev = GENESIS
    for seq, event in enumerate(events, start=1):
        body = pack(event["payload"])
        digest = link_hash(prev, seq, event["at_us"], event["kind"], body)
        db.execute("INSERT INTO journal VALUES (?,?,?,?,?,?)", (seq, event["at_us"], event["kind"], body, prev, digest))
        prev = digest
    db.commit()
    db.close()


def broken(run: Path) -> dict[str, Finding]:
    report = verify_run(run)
    assert not report.ok
    assert report.first is not None
    assert report.to_dict()["first"]["store"] == report.first.store
    assert report.text().endswith(f"First broken: {report.first}")
    return {check.name: check.findings[0] for check in report.checks if check.findings}


def find(events: list[dict[str, Any]], kind: str, index: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = [event for event in events if event["kind"] == kind][index]
    return found


def test_a_run_that_nobody_touched_holds(run: Path) -> None:
    report = verify_run(run)
    assert report.ok, report.first
    assert [check.name for check in report.checks if not check.looked_at] == ["calls of models and settlements"]
    assert report.text().endswith("All checks hold.")


def test_a_running_campaign_can_be_verified(tmp_path: Path) -> None:
    open_run = campaign(tmp_path / "live", researchers=1, rounds=1)
    assert verify_run(tmp_path / "live").first is None
    open_run.close()


def test_an_edited_event_is_named(run: Path) -> None:
    sql(run / "scheduler.db", "UPDATE journal SET payload = ? WHERE seq = 40", pack({"usd": 0}))
    assert broken(run)["journal chains"] == Finding(
        "scheduler", 40, "its content does not match its hash: it was edited"
    )


def test_a_missing_event_is_named(run: Path) -> None:
    sql(run / "forum.db", "DELETE FROM journal WHERE seq = 3")
    found = broken(run)["journal chains"]
    assert (found.store, found.seq) == ("forum", 4)
    assert "missing" in found.reason


def test_reordered_events_are_named(run: Path) -> None:
    for old, new in ((5, -1), (6, 5), (-1, 6)):
        sql(run / "evaluator.db", "UPDATE journal SET seq = ? WHERE seq = ?", new, old)
    assert broken(run)["journal chains"].seq == 5


@pytest.mark.parametrize("name", ["scheduler.db", "evaluator.db", "forum.db"])
def test_a_cut_tail_is_found_by_its_anchor(run: Path, name: str) -> None:
    sql(run / name, "DELETE FROM journal WHERE seq > (SELECT max(seq) - 2 FROM journal)")
    found = broken(run)["anchored heads"]
    assert found.store == name.removesuffix(".db")
    assert "cut" in found.reason


def test_the_cut_tail_of_the_director_is_found_by_the_summary(run: Path) -> None:
    sql(run / "director.db", "DELETE FROM journal WHERE seq > (SELECT max(seq) - 1 FROM journal)")
    assert broken(run)["heads in the summary"].store == "director"


@pytest.mark.parametrize("name", ["scheduler.db", "evaluator.db", "forum.db", "director.db"])
def test_a_deleted_database_is_found(run: Path, name: str) -> None:
    (run / name).unlink()
    assert any(f.store == name.removesuffix(".db") and "missing" in f.reason for f in broken(run).values())


def test_a_deleted_transcript_is_found(run: Path) -> None:
    next((run / "researchers").glob("*/researcher.db")).unlink()
    assert broken(run)["anchored heads"].store.startswith("researcher/")


def test_a_file_that_is_no_database_is_a_finding_and_no_crash(run: Path) -> None:
    (run / "evaluator.db").write_bytes(b"not a database" * 500)
    assert broken(run)["journal chains"].store == "evaluator"


def test_a_history_that_was_hashed_again_does_not_fit_the_anchors(run: Path) -> None:
    def cheaper(events: list[dict[str, Any]]) -> None:
        find(events, "lease_ended")["payload"]["usd"] = 1

    rewrite(run / "scheduler.db", cheaper)
    found = broken(run)
    assert "journal chains" not in found
    assert found["anchored heads"].store == "scheduler"
    assert "settled otherwise" in found["leases and settlements"].reason


def test_a_changed_settlement_differs_from_its_lease_and_the_balances(run: Path) -> None:
    def cheaper(events: list[dict[str, Any]]) -> None:
        find(events, "settled", 0)["payload"]["amounts"]["usd"] -= 1

    rewrite(run / "scheduler.db", cheaper)
    found = broken(run)
    assert {"balances and reservations", "leases and settlements"} <= found.keys()


def test_a_lease_without_settlement_or_with_two_ends_is_found(run: Path) -> None:
    def twice(events: list[dict[str, Any]]) -> None:
        events.remove(find(events, "settled", 0))
        events.append(find(events, "lease_ended"))

    rewrite(run / "scheduler.db", twice)
    reasons = [f.reason for c in verify_run(run).checks if c.name == "leases and settlements" for f in c.findings]
    assert any("was not settled" in reason for reason in reasons)
    assert any("ended before" in reason for reason in reasons)


def test_an_account_above_its_cap_is_found(run: Path) -> None:
    def lower_cap(events: list[dict[str, Any]]) -> None:
        find(events, "account_opened", 0)["payload"]["caps"]["usd"] = 10

    rewrite(run / "scheduler.db", lower_cap)
    assert "above its cap in usd" in broken(run)["rules of the ledger"].reason


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE balances SET spent = spent - 1 WHERE account = 'campaign' AND dimension = 'usd'",
        "UPDATE reservations SET charged_usd = 0 WHERE state = 'settled'",
        "DELETE FROM reservations WHERE key = 'lease/r000001'",
        "UPDATE leases SET gpu_ms = 0 WHERE request_id = 'r000002'",
        "DROP TABLE balances",
    ],
)
def test_a_table_that_was_changed_differs_from_the_journal(run: Path, statement: str) -> None:
    sql(run / "scheduler.db", statement)
    assert broken(run)["balances and reservations"].store == "scheduler"


def test_a_record_with_another_figure_does_not_carry_the_signature(run: Path) -> None:
    def better(events: list[dict[str, Any]]) -> None:
        find(events, "record")["payload"]["pgr"] = 0.99

    rewrite(run / "evaluator.db", better)
    assert "signature" in broken(run)["records"].reason


def test_a_record_in_the_table_that_differs_is_found(run: Path) -> None:
    sql(run / "evaluator.db", "UPDATE records SET body = ? WHERE number = 1", pack({"record_id": "rec-000001"}))
    assert "differs between its table" in broken(run)["records"].reason


def test_a_record_without_its_lease_is_found(run: Path) -> None:
    def forget(events: list[dict[str, Any]]) -> None:
        events.remove(find(events, "lease_ended"))

    rewrite(run / "scheduler.db", forget)
    assert "did not end" in broken(run)["records"].reason


def test_records_without_the_public_key_are_not_taken_for_checked(run: Path) -> None:
    (run / "evaluator.pub").unlink()
    assert "missing" in broken(run)["records"].reason


@pytest.mark.parametrize(("field", "value"), [("record_ids", ["rec-999999"]), ("records", [])])
def test_a_post_with_a_record_that_is_not_there_is_found(run: Path, field: str, value: list[str]) -> None:
    def forge(events: list[dict[str, Any]]) -> None:
        post = next(e for e in reversed(events) if e["payload"].get("kind") == "result")
        post["payload"][field] = value

    rewrite(run / "forum.db", forge)
    assert broken(run)["records in posts"].store == "forum"


def test_there_is_nothing_to_verify_in_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(NoRunError):
        verify_run(tmp_path)


@pytest.fixture(autouse=True)
def _no_leftovers(run: Path) -> Iterator[None]:
    yield
    shutil.rmtree(run, ignore_errors=True)
