"""The report's charts, drawn from the summary's figures: which numbers go where, and in which unit of time."""

from __future__ import annotations

from typing import Any

from actors.observer import charts
from actors.observer.leases import lease_rows
from actors.observer.run_data import RunData
from actors.observer.series import end_us, lanes, start_us
from actors.observer.standings import record_rows
from actors.observer.summary import FAILED
from cluster.money import MICRO, format_usd

LABEL = 30
SHOWN_METHODS = 24


def draw_all(run: RunData, summary: dict[str, Any]) -> dict[str, str]:
    """Every chart as SVG text, by name."""
    divisor, unit = charts.time_unit(summary["wall_seconds"])
    marks = [_mark(row) for row in summary["leaderboard"] if row["pgr"] is not None][:SHOWN_METHODS]
    return {
        "time": _best(run, summary, "t_seconds", divisor, unit),
        "dollars": _best(run, summary, "dollars", 1.0, "dollars"),
        "leaderboard": charts.leaderboard(marks, _levels(summary), "board"),
        "spend": charts.spend([_bar(row) for row in summary["researchers"]], "dollars", "spend"),
        "timeline": _timeline(run, summary, divisor, unit),
        "diversity": charts.diversity(
            [point["t_seconds"] / divisor for point in summary["diversity"]],
            [point["effective_families"] for point in summary["diversity"]],
            [point["recent_effective_families"] for point in summary["diversity"]],
            unit,
            "diversity",
        ),
    }


def short(text: str) -> str:
    """A label that fits beside a chart."""
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"


def _best(run: RunData, summary: dict[str, Any], axis: str, divisor: float, label: str) -> str:
    steps = [
        charts.Step(p[axis] / divisor, p["pgr"], *(p["interval"] or (None, None))) for p in summary["best_over_time"]
    ]
    levels = _levels(summary)
    end = summary["wall_seconds"] / divisor if axis == "t_seconds" else summary["totals"]["dollars"]
    return charts.best_so_far(steps, _dots(run, summary, axis, divisor), levels, end, label, axis)


def _levels(summary: dict[str, Any]) -> dict[str, float]:
    return {row["method"]: row["pgr"] for row in summary["baselines"] if row["pgr"] is not None}


def _dots(run: RunData, summary: dict[str, Any], axis: str, divisor: float) -> list[charts.Dot]:
    begin, bill = start_us(run), [(e.at_us, e) for e in run.events("scheduler", "settled")]
    dots, spent, position = list[charts.Dot](), 0, 0
    for row in sorted(record_rows(run), key=lambda r: r.created_us):
        while position < len(bill) and bill[position][0] <= row.created_us:
            spent += int(bill[position][1].payload.get("amounts", {}).get("usd", 0))
            position += 1
        wanted = row.domain == summary["task"]["domain"]
        if row.is_baseline or row.pgr is None or not wanted:
            continue
        x = (row.created_us - begin) / 1e6 / divisor if axis == "t_seconds" else spent / MICRO
        low, high = (row.interval or (None, None)) if row.tier == "seal" else (None, None)
        dots.append(charts.Dot(x, row.pgr, row.tier, low, high))
    return dots


def _mark(row: dict[str, Any]) -> charts.Mark:
    low, high = row["interval"] or (None, None)
    return charts.Mark(short(row["method"]), row["pgr"], low, high, strong=row["tier"] == "seal")


def _bar(row: dict[str, Any]) -> charts.Bar:
    cap = row["caps"]["dollars_micro"]
    text = format_usd(row["dollars_micro"]) + ("" if cap is None else f" of {format_usd(cap)}")
    return charts.Bar(short(row["id"]), row["dollars"], None if cap is None else cap / MICRO, text)


def _timeline(run: RunData, summary: dict[str, Any], divisor: float, unit: str) -> str:
    begin, end = start_us(run), end_us(run)
    spans = (
        [
            charts.Span(
                row=short(lease.slot or "?"),
                kind=lease.kind,
                start=(lease.started_us - begin) / 1e6 / divisor,
                end=((lease.ended_us or end) - begin) / 1e6 / divisor,
                level=level,
                share=min(lease.gpus, 1.0),
                failed=lease.status in FAILED,
            )
            for lease, level in lanes(lease_rows(run.stores["scheduler"].events), end)
        ]
        if "scheduler" in run.stores
        else []
    )
    phases = [(point["phase"], point["t_seconds"] / divisor) for point in summary["phases"]]
    return charts.timeline(spans, phases, summary["wall_seconds"] / divisor, unit, "timeline")
