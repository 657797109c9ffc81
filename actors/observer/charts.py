"""Charts as inline SVG: text stays text, ink follows the page (light, dark, print), nothing is fetched.

Every chart takes plain numbers that stand in the summary too; none of them computes. Ink and grid are drawn in marker
colours that are replaced by `currentColor` and a variable of the page's style sheet.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, GRID = "#010203", "#040506"
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#3f7fd0", "#d98324", "#2f9e74", "#9467c9", "#cf4b5c", "#8a8f98"
KIND_COLOURS = {"baseline": GREY, "full": BLUE, "pilot": ORANGE, "serve": PURPLE}
WIDTH = 11.6
_DOTS: dict[str, dict[str, Any]] = {
    "dev": {"marker": "o", "mfc": "none", "mec": GREY, "ms": 4},
    "board": {"marker": "o", "color": BLUE, "alpha": 0.55, "ms": 4.5, "mew": 0},
    "seal": {"marker": "D", "color": GREEN, "ms": 6, "mew": 0, "clip_on": False, "zorder": 4},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Dot:
    """One counted score at `x`; sealed ones are drawn with their interval."""

    x: float
    y: float
    tier: str = "board"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A best-so-far value from `x` on, with its interval where it is known."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar: spent, its cap when there is one, and how the amount is written."""

    label: str
    value: float
    cap: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A lease in the timeline; `level` and `share` place it within its slot's row (fractions of the row)."""

    row: str
    kind: str
    start: float
    end: float
    level: float
    share: float
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with an interval on one line of the leaderboard."""

    label: str
    value: float
    low: float | None
    high: float | None
    strong: bool


def time_unit(seconds: float) -> tuple[float, str]:
    """Divisor and name of the unit in which a duration of `seconds` reads well."""
    if seconds < 300:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


@mpl.rc_context(_STYLE)
def best_so_far(
    steps: Sequence[Step], dots: Sequence[Dot], levels: dict[str, float], end: float, x_label: str, name: str
) -> str:
    """The best-so-far step curve with its band over single scores; `levels` are baselines as dashed lines."""
    figure, axes = _axes(2.9, right=0.925)
    for tier, look in _DOTS.items():
        shown = [d for d in dots if d.tier == tier]
        axes.plot([d.x for d in shown], [d.y for d in shown], linestyle="none", label=tier.upper(), **look)
    for dot in dots:
        if dot.tier == "seal" and dot.low is not None and dot.high is not None:
            axes.plot([dot.x, dot.x], [dot.low, dot.high], color=GREEN, linewidth=2, clip_on=False, zorder=3)
    ends = [*(s.x for s in steps[1:]), max([end, *(s.x for s in steps)])]
    for step, until in zip(steps, ends, strict=False):
        if step.low is not None and step.high is not None:
            axes.fill_between([step.x, until], step.low, step.high, color=BLUE, alpha=0.16, linewidth=0)
    if steps:
        xs, ys = [s.x for s in steps], [s.y for s in steps]
        axes.step([*xs, max(end, xs[-1])], [*ys, ys[-1]], where="post", color=BLUE, linewidth=2, label="best so far")
    _limits(axes, steps, dots, levels, end)
    _levels(axes, levels)
    axes.set_xlabel(x_label)
    axes.set_ylabel("PGR")
    if steps or dots:
        _legend(axes, 4)
    return _svg(figure, name)


def _levels(axes: Axes, levels: dict[str, float]) -> None:
    """Dashed lines with their names beside the axes, moved apart where they would touch."""
    low, high = axes.get_ylim()
    free = low
    for label, value in sorted(levels.items(), key=lambda level: level[1]):
        axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        at = max(value, free)
        free = at + 0.085 * (high - low)
        axes.annotate(label, (1.012, at), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)


def _upright_levels(axes: Axes, levels: dict[str, float]) -> None:
    """Dashed upright lines with their names above the axes, to the left where the next line is near."""
    ordered = sorted(levels.items(), key=lambda level: level[1])
    for _, value in ordered:
        axes.axvline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    low, high = axes.get_xlim()
    following = [*(value for _, value in ordered[1:]), math.inf]
    for (label, value), after in zip(ordered, following, strict=False):
        near = after - value < 0.075 * (high - low)
        axes.annotate(label, (value, 1), xycoords=("data", "axes fraction"), xytext=(-3 if near else 3, 3),
                      textcoords="offset points", ha="right" if near else "left", fontsize=8.5)  # fmt: skip


def _limits(axes: Axes, steps: Sequence[Step], dots: Sequence[Dot], levels: dict[str, float], end: float) -> None:
    values = [s.y for s in steps] + [d.y for d in dots] + list(levels.values())
    marks: list[Step | Dot] = [*steps, *dots]
    values += [v for mark in marks for v in (mark.low, mark.high) if v is not None]
    low, high = min([0.0, *values]), max([1.0, *values])
    axes.set_ylim(max(low, -1.0) - 0.05, min(high, 2.0) + 0.05)
    axes.set_xlim(0, max(end, 1e-9))


@mpl.rc_context(_STYLE)
def leaderboard(marks: Sequence[Mark], levels: dict[str, float], name: str) -> str:
    """Each method's PGR with its interval, best on top; `levels` are baselines as dashed lines."""
    figure, axes = _axes(0.8 + 0.27 * max(1, len(marks)), left=0.22)
    for row, mark in enumerate(reversed(marks)):
        colour = BLUE if mark.strong else GREY
        if mark.low is not None and mark.high is not None:
            axes.plot([mark.low, mark.high], [row, row], color=colour, linewidth=2.4, alpha=0.6, solid_capstyle="round")
        axes.plot([mark.value], [row], "o", color=colour, ms=6)
    axes.set_yticks(range(len(marks)), [mark.label for mark in reversed(marks)])
    axes.set_ylim(-0.6, max(1, len(marks)) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("PGR, 95 % interval")
    _upright_levels(axes, levels)
    return _svg(figure, name)


@mpl.rc_context(_STYLE)
def spend(bars: Sequence[Bar], x_label: str, name: str) -> str:
    """Spent per account against its cap."""
    figure, axes = _axes(0.65 + 0.27 * max(1, len(bars)), left=0.22, top=0.1)
    top = max([1e-9, *(bar.value for bar in bars), *(bar.cap or 0.0 for bar in bars)])
    for row, bar in enumerate(reversed(bars)):
        if bar.cap is not None:
            axes.barh(row, bar.cap, height=0.62, color=GREY, alpha=0.22, linewidth=0)
        axes.barh(row, bar.value, height=0.62, color=GREEN, linewidth=0)
        axes.annotate(bar.text, (max(bar.value, bar.cap or 0.0), row), xytext=(5, 0), textcoords="offset points",
                      va="center", fontsize=8.5)  # fmt: skip
    axes.set_yticks(range(len(bars)), [bar.label for bar in reversed(bars)])
    axes.set_ylim(-0.6, max(1, len(bars)) - 0.4)
    axes.set_xlim(0, top * 1.22)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(x_label)
    return _svg(figure, name)


@mpl.rc_context(_STYLE)
def timeline(spans: Sequence[Span], phases: Sequence[tuple[str, float]], end: float, x_label: str, name: str) -> str:
    """Leases per slot over time; a lease is as high as its share of the slot. Failed ones are outlined in red."""
    rows = sorted({span.row for span in spans}, reverse=True)
    figure, axes = _axes(0.8 + 0.62 * max(1, len(rows)), left=0.1)
    for span in spans:
        bottom = rows.index(span.row) - 0.4 + 0.8 * span.level
        axes.broken_barh(
            [(span.start, max(span.end - span.start, end * 0.0008))],
            (bottom, 0.8 * span.share),
            facecolor=KIND_COLOURS.get(span.kind, GREEN),
            edgecolor=RED if span.failed else "none",
            linewidth=1.1 if span.failed else 0,
            alpha=0.85,
        )
    free = 0.0
    for label, start in phases:
        axes.axvline(start, color=INK, linewidth=0.8, alpha=0.5)
        if start < free or start > 0.96 * end:
            continue
        free = start + end * 0.075
        axes.annotate(label, (start, 1), xycoords=("data", "axes fraction"), xytext=(3, 2),
                      textcoords="offset points", fontsize=8.5)  # fmt: skip
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(-0.55, max(1, len(rows)) - 0.45)
    axes.set_xlim(0, max(end, 1e-9))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(x_label)
    for kind in sorted({span.kind for span in spans}):
        axes.barh([-9], [0], color=KIND_COLOURS.get(kind, GREEN), label=kind)
    if spans:
        _legend(axes, 4)
    return _svg(figure, name)


@mpl.rc_context(_STYLE)
def diversity(xs: Sequence[float], total: Sequence[float], recent: Sequence[float], x_label: str, name: str) -> str:
    """Effective number of idea families over submissions."""
    figure, axes = _axes(2.2)
    axes.step(xs, total, where="post", color=PURPLE, linewidth=2, label="all so far")
    axes.step(xs, recent, where="post", color=ORANGE, linewidth=1.4, label="latest ten")
    axes.set_xlim(0, max([*xs, 1e-9]))
    axes.set_ylim(0, max([1.0, *total, *recent]) * 1.12)
    axes.set_xlabel(x_label)
    axes.set_ylabel("effective families")
    _legend(axes, 2)
    return _svg(figure, name)


def _legend(axes: Axes, columns: int) -> None:
    """Below the axes at the right, beside the name of the x axis."""
    height = axes.bbox.height / axes.figure.dpi
    axes.legend(
        loc="upper right",
        ncols=columns,
        fontsize=8.5,
        bbox_to_anchor=(1, -0.22 / height),
        borderaxespad=0,
        handlelength=1.6,
        columnspacing=1.6,
    )


def _axes(height: float, left: float = 0.06, right: float = 0.985, top: float = 0.22) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.subplots_adjust(left=left, right=right, top=1 - top / height, bottom=0.5 / height)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'id="((?:figure|axes|patch|line2d|text|legend|matplotlib|xtick|ytick|FillBetween)[^"]*)"', "", text)
    return text.replace(INK, "currentColor").replace(GRID, "var(--rule)")
