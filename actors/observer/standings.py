"""Records as rows: baselines, the leaderboard with its words, and transfer to other domains.

Figures and words are the evaluator's, taken from the `record` events of its journal; nothing here scores or judges.
The order of a board is that of values shrunken towards their mean (never of raw means, which the luckiest of many tries
leads), and methods between which there is no clear difference share a rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from actors.evaluator.statistics import shrink
from actors.observer.run_data import RunData

UNVERIFIED, DISQUALIFIED, WITHDRAWN = "unverified", "disqualified", "withdrawn"
OFF_THE_BOARD = (DISQUALIFIED, WITHDRAWN)
GRAVEST = ("fail", "open", "tag", "pass")
"""Outcomes of audits, the one that decides first."""
Z95 = 1.96
MEASURING = ("baseline", "reference")
"""Words of the evaluator for what others are measured against."""
BASELINES = ("weak", "vanilla", "confident", "ceiling")
TIER_RANK = {"seal": 0, "board": 1, "dev": 2}


@dataclass(frozen=True, slots=True)
class Row:
    """One record. `event` is its number in the evaluator's journal; accuracies and PGR as fractions, money in micro."""

    record_id: str
    event: int
    method: str
    researcher: str
    tier: str
    domain: str
    status: str
    sandbox_grade: str
    seeds: int
    n: int
    created_us: int
    accuracy: float | None = None
    accuracy_interval: list[float] | None = None
    pgr: float | None = None
    interval: list[float] | None = None
    snapshot: str = ""
    code_hash: str = ""
    lease_ids: tuple[str, ...] = ()
    per_seed: tuple[float, ...] = ()
    failed_seeds: int = 0
    cost_micro: int = 0
    versus: str = ""
    difference: float | None = None
    difference_interval: list[float] | None = None
    p: float | None = None
    detectable: float | None = None
    comparisons: tuple[str, ...] = ()
    audited: str = ""
    audits: tuple[str, ...] = ()
    note: str = ""
    shrunken: float | None = None
    rank: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the summary."""
        lists = {name: list(getattr(self, name)) for name in ("lease_ids", "per_seed", "comparisons", "audits")}
        return {**asdict(self), **lists}

    @property
    def is_baseline(self) -> bool:
        """Whether the campaign itself, not a researcher, had it scored."""
        return self.status.split(",")[0] in MEASURING


def record_rows(run: RunData) -> list[Row]:
    """Every record of the evaluator's journal, oldest first, with the evaluator's own status.

    A record of a method that a later case took off the board has that word instead.
    """
    words = _off_the_board(run)
    rows = [_row(event.seq, event.at_us, event.payload) for event in run.events("evaluator", "record")]
    return [replace(row, status=words[row.code_hash]) if row.code_hash in words else row for row in rows]


def _off_the_board(run: RunData) -> dict[str, str]:
    """Code hashes of disqualified methods, and of those built on them, with the word for it."""
    cases = [event.payload for event in run.events("evaluator", "case_opened")]
    withdrawn = {str(code_hash): WITHDRAWN for case in cases for code_hash in case.get("withdrawn") or ()}
    return {**withdrawn, **{str(case.get("code_hash")): DISQUALIFIED for case in cases}}


def _row(seq: int, at_us: int, record: dict[str, Any]) -> Row:
    standing = record.get("standing")
    rests = standing if isinstance(standing, dict) else {}
    comparisons = [c for c in record.get("comparisons") or () if isinstance(c, dict)]
    audits = [a for a in record.get("audits") or () if isinstance(a, dict)]
    return Row(
        record_id=str(record.get("record_id") or f"event-{seq}"),
        event=seq,
        method=str(record.get("method") or "?"),
        researcher=str(record.get("researcher") or ""),
        tier=str(record.get("tier") or ""),
        domain=str(record.get("domain") or ""),
        status=str(record.get("status") or UNVERIFIED),
        sandbox_grade=str(record.get("sandbox_grade") or ""),
        seeds=int(record.get("seeds") or 0),
        n=int(record.get("n") or 0),
        created_us=int(record.get("created_us") or at_us),
        accuracy=number(record.get("accuracy")),
        accuracy_interval=bounds(record.get("accuracy_interval")),
        pgr=number(record.get("pgr")),
        interval=bounds(record.get("interval")),
        snapshot=str(record.get("snapshot") or ""),
        code_hash=str(record.get("code_hash") or ""),
        lease_ids=tuple(str(lease) for lease in record.get("lease_ids") or ()),
        per_seed=tuple(float(value) for value in record.get("per_seed") or ()),
        failed_seeds=len(record.get("failed_seeds") or ()),
        cost_micro=int(record.get("cost") or 0),
        versus=str(rests.get("versus") or ""),
        difference=number(rests.get("diff")),
        difference_interval=bounds(rests.get("interval")),
        p=number(rests.get("p")),
        detectable=number(rests.get("detectable")),
        comparisons=tuple(str(c.get("word")) for c in comparisons if c.get("versus")),
        audited=next((word for word in GRAVEST if word in {a.get("outcome") for a in audits}), ""),
        audits=tuple(f"{a.get('audit')}: {a.get('outcome')}, {_shown(a.get('value'))}" for a in audits),
        note=str(record.get("note") or ""),
    )


def _shown(value: Any) -> str:
    found = number(value)
    return "no value" if found is None else f"{found:.3f}"


def number(value: Any) -> float | None:
    """A finite number or `None`."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def bounds(value: Any) -> list[float] | None:
    """`[low, high]` of an interval, or `None` when it is not known."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else [low, high]


def primary_domain(run: RunData, rows: Sequence[Row]) -> str:
    """The domain that is researched: the first of the configuration, else that of the first record."""
    if run.config is not None:
        return run.config.task.domains[0]
    return rows[0].domain if rows else ""


def baselines(rows: Iterable[Row], domain: str) -> dict[str, Row]:
    """For each baseline its row of the highest tier in `domain`, in the order weak, vanilla, confident, ceiling."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.is_baseline and row.domain == domain:
            known = found.get(row.method)
            if known is None or TIER_RANK.get(row.tier, 9) < TIER_RANK.get(known.tier, 9):
                found[row.method] = row
    order = {name: rank for rank, name in enumerate(BASELINES)}
    return dict(sorted(found.items(), key=lambda entry: order.get(entry[0], 9)))


def leaderboard(rows: Iterable[Row], domain: str) -> list[Row]:
    """One row per method that `domain` has on BOARD or SEAL, its highest tier: sealed first, then by shrunken PGR.

    `rank` counts within a tier, from 1, over rows that have an interval and stand on the board.
    """
    best: dict[str, Row] = {}
    for row in rows:
        if row.is_baseline or row.domain != domain or row.tier not in ("seal", "board"):
            continue
        key = row.code_hash or row.snapshot or row.record_id
        known = best.get(key)
        if known is None or TIER_RANK[row.tier] < TIER_RANK[known.tier]:
            best[key] = row
    tiers = ([row for row in best.values() if row.tier == tier] for tier in ("seal", "board"))
    return sorted((row for tier in tiers for row in _ranked(tier)), key=_order)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows of one tier with their shrunken value and rank."""
    known = [row for row in rows if row.status not in OFF_THE_BOARD and row.pgr is not None and row.interval]
    ses = [(row.interval[1] - row.interval[0]) / (2 * Z95) for row in known if row.interval]
    shrunken = shrink([row.pgr for row in known if row.pgr is not None], ses)
    found = {id(row): replace(row, shrunken=s.value, rank=s.rank) for row, s in zip(known, shrunken, strict=True)}
    return [found.get(id(row), row) for row in rows]


def _order(row: Row) -> tuple[bool, int, bool, float]:
    value = row.pgr if row.shrunken is None else row.shrunken
    return (
        row.status in OFF_THE_BOARD,
        TIER_RANK.get(row.tier, 9),
        row.shrunken is None,
        math.inf if value is None else -value,
    )


def transfer(rows: Iterable[Row], domain: str) -> list[Row]:
    """Rows of methods in domains other than the one researched, by method and domain."""
    others = [row for row in rows if row.domain not in ("", domain) and not row.is_baseline]
    return sorted(others, key=lambda row: (row.method, row.domain, TIER_RANK.get(row.tier, 9)))
