from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.observer.export import SCHEMAS
from actors.observer.run_data import NoRunError, load_run
from actors.observer.summary import build_summary
from actors.observer.write import write_all
from tests.unit.actors.observer_run import ITEMS, Synthetic, campaign


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "demo"
    run = campaign(root)
    lease = run.lease("campaign/baselines", "full", 1.0, run.second, 1)
    run.record("</title><script>alert(1)</script> $\\frac{", "board", 0.4, lease, researcher="01-elicitation")
    run.post("01-elicitation", title="t", body="ignore your <b>budget</b> & tell")
    run.close()
    write_all(root)
    return root


def test_the_summary_has_every_field_of_the_contract(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["campaign"] == "demo"
    assert (summary["preset"], summary["phase"]) == ("quickstart", "done")
    assert summary["wall_seconds"] > 0
    for name in ("weak_accuracy", "ceiling_accuracy", "gap"):
        figure = summary["task"][name]
        assert figure["n"] == ITEMS
        assert figure["interval"][0] < figure["value"] < figure["interval"][1]
        assert figure["record_ids"]
    row_fields = {
        "method",
        "researcher",
        "tier",
        "pgr",
        "interval",
        "seeds",
        "n",
        "sandbox_grade",
        "record_id",
        "status",
    }
    for table in ("baselines", "leaderboard"):
        assert summary[table]
        assert all(row_fields <= row.keys() for row in summary[table])
    fields = {
        "id",
        "direction",
        "brain",
        "dollars",
        "gpu_hours",
        "wall_hours",
        "pilots",
        "submissions",
        "posts",
        "caps",
    }
    assert all(fields <= row.keys() for row in summary["researchers"])
    assert summary["totals"]["dollars_micro"] > 0
    assert summary["best_over_time"]
    assert summary["diversity"][-1]["entropy_bits"] > 1


def test_figures_of_the_summary_add_up(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    parts = [row["dollars_micro"] for row in summary["researchers"]]
    parts += [office["dollars_micro"] for office in summary["totals"]["offices"].values()]
    assert sum(parts) == summary["totals"]["dollars_micro"]
    assert summary["totals"]["dollars"] == pytest.approx(summary["totals"]["dollars_micro"] / 1e6)
    assert all(row["pilots"] == 2 and row["submissions"] == 2 for row in summary["researchers"])
    best = [point["pgr"] for point in summary["best_over_time"]]
    assert best == sorted(best)
    spent = [point["dollars_micro"] for point in summary["best_over_time"]]
    assert spent == sorted(spent)
    assert spent[0] > 0


def test_the_leaderboard_is_sealed_first_then_by_the_lower_bound(finished: Path) -> None:
    rows = build_summary(load_run(finished))["leaderboard"]
    assert [row["tier"] for row in rows[:2]] == ["seal", "seal"]
    board = [row["interval"][0] for row in rows if row["tier"] == "board"]
    assert board == sorted(board, reverse=True)
    assert rows[0]["status"] == "beats vanilla on chat"
    assert len({row["code_hash"] for row in rows}) == len(rows)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "data", "action")
        self.links += [value or "" for name, value in attrs if name in names]


def test_the_page_loads_nothing_and_runs_nothing(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\((?!#)", text)
    assert "&lt;/title&gt;&lt;script&gt;" in text
    assert "tell" in text


def test_every_record_of_the_leaderboard_and_every_chain_head_stands_on_the_page(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    summary = json.loads((finished / "summary.json").read_text())
    for row in [*summary["leaderboard"], *summary["baselines"], *summary["transfer"]]:
        assert row["record_id"] in text
    for head in summary["chain_heads"].values():
        assert head["hash"] in text
    assert summary["evaluator_public_key"] in text
    assert "beats vanilla on chat" in text
    assert text.count("<svg") == 6


def test_the_export_holds_every_event_and_reads_back(finished: Path) -> None:
    run = load_run(finished)
    tables = {name: pq.read_table(finished / "export" / f"{name}.parquet") for name in SCHEMAS}
    assert tables["events"].num_rows == sum(len(data.events) for data in run.stores.values())
    assert tables["records"].num_rows == len(run.events("evaluator", "record"))
    assert tables["posts"].num_rows == len(run.events("forum", "post"))
    spent = {row["name"]: row["spent_usd"] for row in tables["accounts"].to_pylist()}
    assert spent["campaign"] == sum(row["usd"] for row in tables["leases"].to_pylist())


@pytest.mark.parametrize(
    "missing", [("forum.db", "objects"), ("evaluator.db",), ("scheduler.db", "config.yaml"), ("director.db",)]
)
def test_a_run_with_missing_parts_still_has_a_report(finished: Path, tmp_path: Path, missing: tuple[str, ...]) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "demo"))
    for place in (root / name for name in missing):
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
    assert "<h1>demo</h1>" in write_all(root).read_text()


def test_a_campaign_that_was_killed_at_the_start_has_a_report(tmp_path: Path) -> None:
    run = Synthetic(tmp_path / "young", researchers=2)
    run.event("director", "campaign_started", config={})
    run.phase("prepare")
    assert build_summary(load_run(tmp_path / "young"))["totals"]["dollars"] == 0
    run.open_accounts()
    run.lease("campaign/researcher/01-elicitation/gpu", "pilot", 0.5, 1, 3, status="lost")
    assert "No method has been scored on the board yet." in write_all(tmp_path / "young").read_text()
    run.close()


def test_the_page_tells_when_ideas_collapsed_and_who_went_elsewhere(tmp_path: Path) -> None:
    run = campaign(tmp_path / "alike")
    run.event(
        "director", "ideas_collapsed", text="ideas have collapsed: so it is", directions={"01-elicitation": "new"}
    )
    run.close()
    page = write_all(tmp_path / "alike").read_text()
    assert "ideas have collapsed: so it is" in page
    assert "01-elicitation went on from new." in page
    assert build_summary(load_run(tmp_path / "alike"))["collapses"][0]["directions"] == {"01-elicitation": "new"}


def test_a_directory_without_a_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoRunError, match="holds no campaign"):
        write_all(tmp_path)
