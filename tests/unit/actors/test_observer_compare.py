from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from actors.observer.compare import COLUMNS, compared, table
from actors.observer.run_data import NoRunError, load_run
from actors.observer.summary import build_summary
from scripts import compare
from tests.unit.actors.observer_run import campaign


def test_campaigns_stand_side_by_side_with_ratios_of_their_own_figures(tmp_path: Path) -> None:
    run = campaign(tmp_path / "one")
    lease = run.lease("campaign/baselines", "full", 1.0, run.second, 1)
    run.record("cheat", "seal", 0.99, lease, researcher="01-elicitation", status="disqualified")
    run.close()
    campaign(tmp_path / "two", researchers=1).close()
    rows = [compared(tmp_path / name) for name in ("one", "two")]
    assert [(row["campaign"], row["researchers"]) for row in rows] == [("one", 3), ("two", 1)]
    first, summary = rows[0], build_summary(load_run(tmp_path / "one"))
    sealed = [row["pgr"] for row in summary["leaderboard"] if row["tier"] == "seal" and row["status"] != "disqualified"]
    assert (first["tier"], first["pgr"]) == ("seal", max(sealed))
    assert first["caught"] == 1
    assert first["pgr_per_dollar"] == pytest.approx(first["pgr"] / summary["totals"]["dollars"])
    assert first["pgr_per_hour"] == pytest.approx(first["pgr"] / (summary["wall_seconds"] / 3600))
    console = Console(width=250, record=True, file=(tmp_path / "out").open("w"))
    console.print(table(rows))
    assert "cheats caught" in console.export_text()


def test_a_directory_without_a_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoRunError):
        compared(tmp_path / "nothing")


def test_a_table_in_a_pipe_shows_every_column_whole_whatever_campaigns_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["a-campaign-with-a-rather-long-name-of-its-own", "[red]käml"]
    for name in names:
        campaign(tmp_path / name).close()
    assert compare.main([str(tmp_path / name) for name in names]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in (*COLUMNS, *names))
    assert "…" not in shown
