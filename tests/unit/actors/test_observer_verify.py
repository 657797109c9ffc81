from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.evaluator.records import Record, Signer
from actors.evaluator.secret import Secret
from actors.evaluator.seeds import write_revealed
from actors.observer.finding import Finding
from actors.observer.run_data import NoRunError
from actors.observer.verify import verify_run
from cluster.journal import GENESIS, link_hash
from cluster.wire import pack, unpack
from tests.unit.actors.observer_run import campaign

Edit = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "demo"
    campaign(root, researchers=2, rounds=1).finish()
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
    state, left = "ended, sealed, closed", "locks and SQLite's side files (*.lock, *-wal, *-shm)"
    assert report.title == f"Verification of demo ({state}); not covered: {left}"
    assert report.text().endswith("All checks hold.")


def test_a_running_campaign_can_be_verified(tmp_path: Path) -> None:
    open_run = campaign(tmp_path / "live", researchers=1, rounds=1)
    report = verify_run(tmp_path / "live", going_on=True)
    assert report.first is None
    assert "still going on" in report.title
    assert "scheduler.holders" in report.title
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


def test_what_is_held_for_no_lease_when_the_campaign_has_ended_is_found(run: Path) -> None:
    def held(events: list[dict[str, Any]]) -> None:
        reserved = find(events, "reserved")
        events.append({**reserved, "payload": {**reserved["payload"], "key": "hold/tokens/r/0/model/0/0"}})

    rewrite(run / "scheduler.db", held)
    assert "model/0/0 is held although the campaign has ended" in broken(run)["rules of the ledger"].reason


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


def resigned(run: Path, **changes: Any) -> Edit:
    """An edit of the last record by one who has the evaluator's key, its table included."""
    signer = Signer.load_or_create(run / "judge" / "signing.key")

    def edit(events: list[dict[str, Any]]) -> None:
        event = find(events, "record")
        fields = {**event["payload"], **changes}
        del fields["signature"]
        event["payload"] = signer.sign(Record(**fields)).to_dict()
        sql(
            run / "evaluator.db",
            "UPDATE records SET body = ? WHERE number = (SELECT MAX(number) FROM records)",
            pack(event["payload"]),
        )

    return edit


@pytest.mark.parametrize(
    ("changes", "check", "said"),
    [
        ({"gpu_ms": 1}, "grades and costs of records", "claims 1 GPU-ms, its leases used"),
        ({"cost": 1}, "grades and costs of records", "claims to have cost 1 micro-dollars, its leases were charged"),
        ({"cost": None}, "grades and costs of records", "claims to have cost None"),
        ({"code_hash": "0" * 64}, "code of records", "has code hash 000000000000, that of its snapshot is "),
        ({"snapshot": "0" * 64}, "code of records", "its snapshot has none: no object 0000"),
        ({"code_hash": "0" * 64}, "finalists and sealed records", "is of no finalist that was frozen for math"),
        ({"domain": "code"}, "finalists and sealed records", "is of no finalist that was frozen for code"),
        ({"domain": "chat"}, "finalists and sealed records", "is a second one for its domain"),
        (
            {"comparisons": []},
            "finalists and sealed records",
            "compares with [], declared were ['confident', 'vanilla']",
        ),
        ({"status": "beats vanilla on math"}, "claims of records", "its standing says 'tied'"),
        ({"probe_hash": ""}, "grades and costs of records", "names no probe"),
        ({"seed_commitment": ""}, "seeds of records", "does not commit to its seeds"),
    ],
)
def test_a_record_must_rest_on_its_leases_and_commit_to_its_seeds_whoever_signs_it(
    run: Path, changes: dict[str, Any], check: str, said: str
) -> None:
    rewrite(run / "evaluator.db", resigned(run, **changes))
    assert said in broken(run)[check].reason


def test_a_grade_better_than_that_of_the_leases_is_found(run: Path) -> None:
    def worse(events: list[dict[str, Any]]) -> None:
        find(events, "lease_ended")["payload"]["sandbox_grade"] = "B"

    rewrite(run / "scheduler.db", worse)
    assert "claims sandbox grade A, its leases have B" in broken(run)["grades and costs of records"].reason


def test_a_revealed_secret_is_held_against_commitment_and_records(run: Path) -> None:
    true = Secret.load_or_create(run / "judge" / "secret.bin")
    assert json.loads((run / "revealed.json").read_text())["secret"] == true.revealed()
    assert verify_run(run).ok
    rewrite(run / "evaluator.db", resigned(run, seed_commitment="0" * 64))
    assert "was not made with the seeds of the revealed secret" in broken(run)["seeds of records"].reason
    write_revealed(run / "revealed.json", Secret(bytes(32)))
    assert "not the one that this event committed to" in broken(run)["seeds of records"].reason
    (run / "revealed.json").write_text("{}")
    assert "revealed.json is damaged" in broken(run)["seeds of records"].reason


BEATS = {"word": "beats vanilla on math", "versus": "vanilla", "p": 0.01, "diff": 0.03, "interval": [0.01, 0.05]}
PASSED = {"audit": "null task", "outcome": "pass", "value": 0.5, "limit": 0.55, "says": ""}
FAILED = {**PASSED, "outcome": "fail"}


def claiming(standing: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Changes of the last record that make it a claim."""
    own = {**BEATS, **standing}
    other = {**BEATS, "word": "tied", "versus": "confident"}
    return {"status": own["word"], "standing": own, "comparisons": [own, other], "audits": [PASSED], **changes}


def test_a_claim_with_all_its_grounds_holds(run: Path) -> None:
    rewrite(run / "evaluator.db", resigned(run, **claiming({})))
    assert "claims of records" not in broken(run)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (claiming({"p": 0.06}), "with p = 0.06"),
        (claiming({"p": None}), "with p = None"),
        (claiming({"interval": [-0.001, 0.05]}), "with an interval of [-0.001, 0.05]"),
        (claiming({"interval": None}), "with an interval of None"),
        (claiming({}, seeds=9), "with 9 seeds and 5000 items"),
        (claiming({}, n=1199), "with 10 seeds and 1199 items"),
        (claiming({}, sandbox_grade="B"), "with sandbox grade B"),
        (claiming({}, audits=[PASSED, FAILED]), "with an audit that it did not pass"),
        (claiming({}, audits=[{**PASSED, "outcome": "open"}]), "with an audit that it did not pass"),
        (claiming({}, audits=[]), "without an audit"),
        (claiming({}, tier="board"), "is not sealed"),
        (claiming({"word": "beats vanilla on chat"}), "names neither vanilla nor math"),
        (claiming({"word": "beats vanilla"}), "is not ahead in another domain"),
    ],
)
def test_a_claim_that_lacks_one_ground_is_found_whoever_signs_it(run: Path, changes: dict[str, Any], said: str) -> None:
    rewrite(run / "evaluator.db", resigned(run, **changes))
    assert said in broken(run)["claims of records"].reason


def test_a_claim_among_the_comparisons_needs_its_grounds_as_well(run: Path) -> None:
    """The word for people is harmless, one of the comparisons behind it is not."""
    hidden = {**BEATS, "word": "beats confident on math", "versus": "confident", "p": 0.4}
    tied = {**BEATS, "word": "tied"}
    changes = {"status": "tied", "standing": tied, "comparisons": [tied, hidden], "audits": [PASSED]}
    rewrite(run / "evaluator.db", resigned(run, **changes))
    assert "says 'beats confident on math' with p = 0.4" in broken(run)["claims of records"].reason


def without(kind: str, index: int = -1) -> Edit:
    return lambda events: events.remove(find(events, kind, index))


def another_finalist(events: list[dict[str, Any]]) -> None:
    frozen = find(events, "finalists_frozen")["payload"]
    extra = "f" * 64
    frozen["finalists"].append({"code_hash": extra})
    frozen["audited"].append(extra)
    frozen["comparisons"] += [[extra, name, "chat"] for name in ("vanilla", "confident")]


def fewer_finalists(events: list[dict[str, Any]]) -> None:
    frozen = find(events, "finalists_frozen")["payload"]
    gone = frozen["finalists"].pop()["code_hash"]
    frozen["comparisons"] = [row for row in frozen["comparisons"] if row[0] != gone]


def fewer_comparisons(events: list[dict[str, Any]]) -> None:
    frozen = find(events, "finalists_frozen")["payload"]
    frozen["comparisons"] = [row for row in frozen["comparisons"] if row[1] != "confident"]


def unaudited(events: list[dict[str, Any]]) -> None:
    find(events, "finalists_frozen")["payload"]["audited"].pop()


def frozen_late(events: list[dict[str, Any]]) -> None:
    event = find(events, "finalists_frozen")
    events.remove(event)
    events.append(event)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (without("record"), "has no sealed record on math"),
        (without("finalists_frozen"), "no finalists were frozen"),
        (another_finalist, "finalist ffffffffffff has no sealed record on chat"),
        (fewer_finalists, "is of no finalist that was frozen for chat"),
        (fewer_comparisons, "compares with ['confident', 'vanilla'], declared were ['vanilla']"),
        (unaudited, "was not audited"),
        (frozen_late, "is older than the finalists"),
        (lambda events: events.append(find(events, "finalists_frozen")), "frozen a second time"),
        (lambda events: find(events, "sealed")["payload"]["records"].pop(), "are not the sealed ones"),
    ],
)
def test_what_was_sealed_is_what_was_frozen_and_declared(run: Path, edit: Edit, said: str) -> None:
    rewrite(run / "evaluator.db", edit)
    assert said in broken(run)["finalists and sealed records"].reason


def test_a_method_that_was_exchanged_in_the_store_is_found(run: Path) -> None:
    shutil.rmtree(run / "objects")
    assert "the object store is missing" in broken(run)["code of records"].reason
