"""Verification of calls: a sound run has nothing to say; whatever is changed afterwards is found and named."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.gateway.retries import Failure
from actors.observer.audit_calls import audit_calls
from actors.observer.books import replay
from actors.observer.calls import Calls, quantile
from actors.observer.export import export
from actors.observer.run_data import load_run
from actors.observer.summary import build_summary
from actors.observer.write import write_all
from cluster.config import dump_config
from cluster.errors import Reason, RefusedError
from cluster.journal import Event
from cluster.names import RunPaths
from tests.unit.actors.gateway_world import (
    MEMORY,
    TEAM,
    FakeLedger,
    Outcome,
    Simulated,
    answer,
    campaign,
    make,
    request,
)

DROPPED = Failure(Reason.UNAVAILABLE, "dropped", again=True, billed=True)


@pytest.fixture(scope="module")
def sound() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        root = Path(path)
        RunPaths(root).config.write_text(dump_config(campaign()))
        ledger_actor = FakeLedger(RunPaths(root).scheduler_db)
        outcomes: list[Outcome] = [
            answer(),
            DROPPED,
            answer(),
            answer(input_tokens=9000),
            Failure(Reason.BAD_REQUEST, "no"),
        ]
        gateway = make(root, ledger_actor, Simulated(*outcomes))

        async def study() -> None:
            for n in range(3):
                await gateway.call(f"{TEAM[n]}/0/model/0", TEAM[n], request(f"question {n}"))
            with pytest.raises(RefusedError):
                await gateway.call(f"{TEAM[0]}/1/model/0", TEAM[0], request("bad"))

        asyncio.run(study())
        gateway.attempts.store.close()
        ledger_actor.store.close()
        yield root


def findings(root: Path) -> list[str]:
    return [str(finding) for finding in audit_calls(load_run(root))[1]]


def test_a_sound_run_holds(sound: Path) -> None:
    looked, found = audit_calls(load_run(sound))
    assert (looked, found) == (4, [])


@pytest.mark.parametrize(
    ("store", "change", "words"),
    [
        ("gateway", "UPDATE blocks SET body = x'00' WHERE sha IN (SELECT content FROM exchanges)", "damaged"),
        ("gateway", "DELETE FROM exchanges WHERE key LIKE '01%'", "missing"),
        ("gateway", "UPDATE exchanges SET message = (SELECT MAX(message) FROM exchanges)", "not the one"),
        ("gateway", "DELETE FROM nodes", "damaged"),
        ("gateway", "DELETE FROM journal WHERE seq = (SELECT MAX(seq) FROM journal)", "pays for no call"),
        ("scheduler", "DELETE FROM journal WHERE seq > 9", "no reservation"),
    ],
)
def test_what_was_changed_is_found(sound: Path, tmp_path: Path, store: str, change: str, words: str) -> None:
    root = tmp_path / "run"
    shutil.copytree(sound, root)
    db = sqlite3.connect(root / f"{store}.db")
    db.execute(change)
    db.commit()
    db.close()
    assert any(words in finding for finding in findings(root))


def test_a_call_without_usage_holds_and_one_of_another_tier_is_told(tmp_path: Path) -> None:
    RunPaths(tmp_path).config.write_text(dump_config(campaign()))
    ledger_actor, dear = FakeLedger(RunPaths(tmp_path).scheduler_db), answer()
    dear["usage"]["service_tier"] = "priority"
    gateway = make(tmp_path, ledger_actor, Simulated({**answer(), "usage": {}}, dear))
    for n in range(2):
        asyncio.run(gateway.call(f"{TEAM[n]}/0/model/0", TEAM[n], request()))
    gateway.attempts.store.close()
    ledger_actor.store.close()
    (finding,) = findings(tmp_path)
    assert "service_tier: priority" in finding


def test_without_a_gateway_nothing_may_have_been_paid_for_calls(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(sound, root)
    RunPaths(root).gateway_db.unlink()
    assert all("no gateway is there" in finding for finding in findings(root))
    assert findings(root)


def test_another_price_than_the_charged_one_is_found(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(sound, root)
    price = "{input: 5, output: 26, cache_write_5m: 6.25, cache_write_1h: 10, cache_read: 0.5}"
    RunPaths(root).config.write_text(dump_config(campaign(f"gateway.prices.claude-opus-4-6={price}")))
    assert any("its tokens cost" in finding for finding in findings(root))
    assert any("the usage of" in finding for finding in findings(root))


def test_the_export_has_a_row_for_every_attempt_that_was_charged(sound: Path, tmp_path: Path) -> None:
    run = load_run(sound)
    export(run, tmp_path)
    rows = pq.read_table(tmp_path / "calls.parquet").to_pylist()
    assert [row["outcome"] for row in rows].count("attempt_lost") == 1
    assert sum(row["usd"] for row in rows) == replay(run.stores["scheduler"].events).total().usd


def test_the_summary_and_the_page_say_what_the_calls_came_to(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(sound, root)
    run = load_run(root)
    calls = build_summary(run)["model_calls"]
    total, rows = calls["total"], {row["id"]: row for row in calls["researchers"]}
    assert list(rows)[:3] == list(TEAM)
    assert len(rows) == 9, "those that called nothing are there, too"
    assert total["dollars_micro"] == replay(run.stores["scheduler"].events).total().usd
    assert (total["answered"], total["lost"]) == (3, 1)
    for kind in ("answered", "lost", "input", "cache_write", "cache_read", "output", "dollars_micro"):
        assert total[kind] == sum(row[kind] for row in rows.values()), kind
    assert rows[TEAM[2]]["input"] == 9000
    assert rows["09-interpretability"]["seconds_p50"] is None
    assert 0 <= total["seconds_p50"] <= total["seconds_p90"]
    page = write_all(root).read_text()
    assert "9,000" in page
    assert page.count(f"<td>{TEAM[2]}</td>") == 2


def test_the_share_of_the_cache_and_the_times_of_answers() -> None:
    calls = Calls()
    kinds = {"input": 10, "cache_write_5m": 20, "cache_write_1h": 30, "cache_read": 140, "output": 5}
    for n in range(10):
        payload = {"tokens": kinds, "usd": 7, "seconds": float(10 - n)}
        calls.add(Event(n, 0, "call_answered", payload, "", ""))
    told = calls.to_dict()
    assert (told["cache_write"], told["cache_hit_share"], told["dollars_micro"]) == (500, 0.7, 70)
    assert (told["seconds_p50"], told["seconds_p90"]) == (5.0, 9.0)
    assert quantile([], 0.5) is None
    assert (Calls().to_dict()["cache_hit_share"], quantile([3.0], 0.9)) == (None, 3.0)
