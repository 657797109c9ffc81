"""Campaigns side by side, from their summaries alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from actors.observer.plain import plain
from actors.observer.run_data import load_run
from actors.observer.standings import DISQUALIFIED
from actors.observer.summary import build_summary
from cluster.terminal import cell

RANK = {"seal": 0, "board": 1, "dev": 2}
COLUMNS = (
    "campaign", "preset", "researchers", "PGR", "interval", "from", "dollars", "PGR / $", "hours", "PGR / h",
    "bits", "submissions", "cheats caught",
)  # fmt: skip


def compared(run_dir: Path) -> dict[str, Any]:
    """One row: the campaign's best PGR with its tier, what it took, how diverse its ideas were, what was caught.

    `pgr` is of the best row of the highest tier that has one; rows that were disqualified count as `caught` alone.
    `hours` are those of the whole campaign. Ratios are `None` without a PGR. Raises `NoRunError`.
    """
    summary = build_summary(load_run(run_dir))
    rows = [r for r in summary["leaderboard"] if r["pgr"] is not None and r["status"] != DISQUALIFIED]
    rows.sort(key=lambda row: (RANK.get(row["tier"], len(RANK)), -row["pgr"]))
    best = rows[0] if rows else None
    dollars = summary["totals"]["dollars"]
    hours = summary["wall_seconds"] / 3600
    ideas = summary["diversity"][-1] if summary["diversity"] else None
    caught = {row["code_hash"] for row in summary["failures"]["disqualified"]}
    row: dict[str, Any] = {
        "campaign": summary["campaign"],
        "preset": summary["preset"],
        "researchers": len(summary["researchers"]),
        "pgr": None if best is None else best["pgr"],
        "interval": None if best is None else best["interval"],
        "tier": None if best is None else best["tier"],
        "record_id": None if best is None else best["record_id"],
        "dollars": dollars,
        "pgr_per_dollar": _ratio(best, dollars),
        "hours": hours,
        "pgr_per_hour": _ratio(best, hours),
        "team_entropy_bits": None if ideas is None else ideas["team_entropy_bits"],
        "team_entropy_band": None if ideas is None else ideas["team_entropy_band"],
        "submissions": sum(one["submissions"] for one in summary["researchers"]),
        "caught": len(caught),
    }
    found: dict[str, Any] = plain(row)
    return found


def _ratio(best: dict[str, Any] | None, amount: float) -> float | None:
    return None if best is None or amount <= 0 else best["pgr"] / amount


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a terminal."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in ("campaign", "preset", "from") else "right", overflow="fold")
    for row in rows:
        band = row["team_entropy_band"]
        bits = "-" if band is None else f"{row['team_entropy_bits']:.2f} ({band[0]:.2f}-{band[1]:.2f})"
        unsure = "-" if row["pgr"] is None else "gap unsure"
        interval = unsure if row["interval"] is None else f"{row['interval'][0]:.2f}-{row['interval'][1]:.2f}"
        told = (
            row["campaign"], row["preset"], row["researchers"], _number(row["pgr"]), interval, row["tier"] or "-",
            _number(row["dollars"]), _number(row["pgr_per_dollar"]), _number(row["hours"]),
            _number(row["pgr_per_hour"]), bits, row["submissions"], row["caught"],
        )  # fmt: skip
        shown.add_row(*map(cell, told))
    return shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
