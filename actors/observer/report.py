"""`report.html`: one file that opens without a network; every figure names its records or journal events.

The page has no script and refuses to load anything (its own content policy); all text of researchers is escaped.
It is made of the journals and the summary alone, so that the same ones give the same page.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from actors.observer import drawings
from actors.observer.format import FILTERS
from actors.observer.plain import plain
from actors.observer.run_data import RunData
from actors.observer.series import start_us

TEMPLATES = Path(__file__).parent / "templates"
EXCERPT = 14
SECTIONS = (
    ("progress", "Progress"),
    ("leaderboard", "Leaderboard"),
    ("task", "Task and baselines"),
    ("transfer", "Transfer"),
    ("researchers", "Researchers"),
    ("models", "Models"),
    ("gpus", "GPUs"),
    ("diversity", "Diversity"),
    ("forum", "Forum"),
    ("failures", "Failures"),
    ("provenance", "Provenance"),
)


def render_report(run: RunData, summary: dict[str, Any]) -> str:
    """The page of a run as HTML text, from its journals and a summary that holds what verifying them found."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    used = Counter(family for point in summary["diversity"] for family in point["families"])
    return environment.get_template("report.html.j2").render(
        s=summary,
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        verdict=verdict(summary),
        verified=summary["verification"],
        sections=SECTIONS,
        charts=drawings.draw_all(run, summary),
        sources=sources(summary, run),
        families=used.most_common(),
        posts=excerpt(run),
    )


def verdict(summary: dict[str, Any]) -> str:
    """The campaign in one sentence, no stronger than its records."""
    sealed = [row for row in summary["leaderboard"] if row["tier"] == "seal"]
    proved = [row for row in sealed if row["status"].startswith("beats")]
    if proved:
        row = proved[0]
        text = f"{row['method']} by {row['researcher']} {row['status']}: PGR {_span(row)} on sealed items"
        return f"{text}, {row['seeds']} fresh seeds (record {row['record_id']})."
    if sealed:
        row = sealed[0]
        return (
            f"No method is established as better than the baselines. The best sealed one, {row['method']} by "
            f"{row['researcher']}, has PGR {_span(row)} and is {row['status']} (record {row['record_id']})."
        )
    if summary["leaderboard"]:
        row = summary["leaderboard"][0]
        return (
            f"Nothing is sealed yet; figures are provisional. Ahead on the board: {row['method']} by "
            f"{row['researcher']}, PGR {_span(row)} (record {row['record_id']})."
        )
    return "No method has been scored on the board yet."


def _span(row: dict[str, Any]) -> str:
    value = "undefined" if row["pgr"] is None else f"{row['pgr']:.2f}"
    if row["interval"] is None:
        return value
    return f"{value} (95 % interval {row['interval'][0]:.2f} to {row['interval'][1]:.2f})"


def excerpt(run: RunData) -> list[dict[str, Any]]:
    """The latest posts, claims left out, newest first."""
    events = [event for event in run.events("forum", "post") if event.payload.get("kind") != "claim"]
    begin = start_us(run)
    return [{**plain(e.payload), "event": e.seq, "t": (e.at_us - begin) / 1e6} for e in reversed(events[-EXCERPT:])]


def sources(summary: dict[str, Any], run: RunData) -> dict[str, str]:
    """Where the figures of each chart come from: record ids or event numbers."""
    best = [point["record_id"] for point in summary["best_over_time"]]
    baselines = [row["record_id"] for row in summary["baselines"]]
    accounts = [row["account_event"] for row in summary["researchers"] if row["account_event"] is not None]
    settled = [event.seq for event in run.events("scheduler", "settled")]
    leases = [event.seq for event in run.events("scheduler", "lease_ended")]
    ideas = [point["event"] for point in summary["diversity"]]
    return {
        "best": f"New bests: {_listed(best)}. Baselines: {_listed(baselines)}.",
        "accounts": f"Scheduler's journal: accounts {_range(accounts)}, settlements {_range(settled)}.",
        "leases": f"Scheduler's journal, lease_ended {_range(leases)}.",
        "diversity": f"Evaluator's journal, submission {_range(ideas)}.",
    }


def _listed(ids: list[str]) -> str:
    return ", ".join(ids) or "none"


def _range(numbers: list[int]) -> str:
    if not numbers:
        return "(no events)"
    return f"events {min(numbers)} to {max(numbers)} ({len(numbers)})"
