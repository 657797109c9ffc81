"""What people read of a campaign, written into its directory: summary, tables, page."""

from __future__ import annotations

from pathlib import Path

from actors.observer.export import export
from actors.observer.plain import write_text
from actors.observer.report import render_report
from actors.observer.run_data import load_run
from actors.observer.summary import write_summary
from actors.observer.verify import verify_journals


def write_all(run_dir: Path) -> Path:
    """Write `summary.json`, `export/*.parquet` and `report.html` of a campaign in any state; the page's path.

    Raises `NoRunError`.
    """
    run = load_run(run_dir)
    summary = write_summary(run, verify_journals(run).to_dict())
    export(run, run.paths.export)
    write_text(run.paths.report, render_report(run, summary))
    return run.paths.report
