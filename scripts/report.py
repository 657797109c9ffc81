"""Write a campaign's summary, Parquet export and report from its directory, and print the main figures.

    python scripts/report.py runs/quickstart

Works on a running, a killed and a finished campaign.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from rich.table import Table
from rich.text import Text

from actors.observer import NoRunError, write_all
from cluster.names import RunPaths
from cluster.terminal import cell, complain, run_script, show
from cluster.text import visible_line


def figure(value: Any, interval: Any, *, given: bool = False) -> str:
    """A PGR with its interval, as text; one without is unsure unless it is `given` (of teacher and ceiling)."""
    if value is None:
        return "undefined"
    if not interval or interval[0] is None or interval[1] is None:
        return f"{value:+.2f}" if given else f"{value:+.2f} (gap unsure)"
    return f"{value:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"


def print_summary(run: Path, rows: int = 12) -> None:
    """The main figures of `summary.json`."""
    summary = json.loads(RunPaths(run).summary.read_text())
    title = Text(visible_line(f"{summary['campaign']}: sealed results first"))
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("method", "researcher", "tier", "PGR [95 %]", "seeds", "n", "grade", "status", "record"):
        table.add_column(column, overflow="fold")
    for row in (summary["leaderboard"] + summary["baselines"])[:rows]:
        told = ("researcher", "tier", "pgr", "seeds", "n", "sandbox_grade", "status", "record_id")
        shown = {**row, "pgr": figure(row["pgr"], row["interval"], given=row["status"] == "reference")}
        table.add_row(cell(str(row["method"])[:40]), *(cell(shown[name]) for name in told))
    show(table)
    totals = summary["totals"]
    gpu_seconds = float(totals["gpu_hours"]) * 3600
    print(f"{summary['wall_seconds']:.0f} s, ${float(totals['dollars']):.4f}, {gpu_seconds:.0f} GPU-s")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the campaign's directory")
    args = parser.parse_args(argv)
    try:
        write_all(args.run)
    except NoRunError as error:
        complain("report", error)
        return 2
    print_summary(args.run)
    print(f"Report: {RunPaths(args.run).report}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
