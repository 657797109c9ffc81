"""What changes over a campaign's time: phases, best score so far, diversity of ideas, use of the slots.

Pure functions over journals. Times are seconds since the campaign's first event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from actors.observer.books import Books
from actors.observer.diversity import points
from actors.observer.leases import LeaseRow
from actors.observer.run_data import RunData
from actors.observer.standings import Row
from cluster.money import MICRO
from cluster.objects import ObjectStore


def start_us(run: RunData) -> int:
    """When the campaign began: the director's first word, else the earliest event of any journal, else 0."""
    started = run.events("director", "campaign_started")
    if started:
        return started[0].at_us
    return min((data.events[0].at_us for data in run.stores.values() if data.events), default=0)


def end_us(run: RunData) -> int:
    """When it ended; for a campaign that runs or was killed, its latest event."""
    ended = run.events("director", "campaign_ended")
    if ended:
        return ended[-1].at_us
    return max((data.events[-1].at_us for data in run.stores.values() if data.events), default=0)


def phases(run: RunData) -> list[dict[str, Any]]:
    """Each phase as it was entered: phase, t_seconds, event."""
    begin = start_us(run)
    return [
        {"phase": str(event.payload.get("phase")), "t_seconds": (event.at_us - begin) / 1e6, "event": event.seq}
        for event in run.events("director", "phase")
    ]


def best_over_time(rows: Iterable[Row], books: Books, begin_us: int) -> list[dict[str, Any]]:
    """Every new best PGR among `rows` in the order in which they were scored, with the bill at that moment."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: r.created_us):
        if row.pgr is None or (best and row.pgr <= best[-1]["pgr"]):
            continue
        usd = books.usd_at(row.created_us)
        best.append(
            {
                "t_seconds": max(0.0, (row.created_us - begin_us) / 1e6),
                "dollars": usd / MICRO,
                "dollars_micro": usd,
                "pgr": row.pgr,
                "interval": row.interval,
                "method": row.method,
                "researcher": row.researcher,
                "tier": row.tier,
                "record_id": row.record_id,
            }
        )
    return best


def ladder(run: RunData) -> list[dict[str, Any]]:
    """The board's rungs: level (accuracy), record_id (empty for the baseline that it starts from), t_seconds, event."""
    begin = start_us(run)
    return [
        {
            "t_seconds": (event.at_us - begin) / 1e6,
            "level": event.payload.get("level"),
            "record_id": event.payload.get("record_id"),
            "event": event.seq,
        }
        for event in run.events("evaluator", "ladder")
    ]


def diversity(run: RunData) -> list[dict[str, Any]]:
    """Diversity of ideas after each submission; see `diversity.points`."""
    begin, objects = start_us(run), ObjectStore(run.paths.objects) if run.paths.objects.is_dir() else None
    named = {str(e.payload["snapshot"]): e.payload["families"] for e in run.events("director", "families_named")}
    return points(
        (
            {**event.payload, "t_seconds": (event.at_us - begin) / 1e6, "event": event.seq}
            for event in run.events("evaluator", "submission")
            if f"researcher/{event.payload.get('researcher')}" in run.stores
        ),
        objects,
        named,
    )


def lanes(leases: Sequence[LeaseRow], until_us: int) -> list[tuple[LeaseRow, float]]:
    """Every lease that began, with the height in its slot (0 to 1) at which it is drawn; overlapping ones are stacked.

    Heights are first fit in thousandths of a GPU. A lease that runs counts as ending at `until_us`.
    """
    placed: list[tuple[LeaseRow, float]] = []
    active: dict[str, list[tuple[int, int, int]]] = {}
    for lease in sorted((lease for lease in leases if lease.started_us), key=lambda le: (le.started_us, le.lease_id)):
        share = max(1, round(min(lease.gpus, 1.0) * 1000))
        others = [a for a in active.get(lease.slot, []) if a[2] > lease.started_us]
        level = _first_fit(sorted(others), share)
        others.append((level, level + share, lease.ended_us or until_us))
        active[lease.slot] = others
        placed.append((lease, min(level, 1000 - share) / 1000))
    return placed


def _first_fit(taken: list[tuple[int, int, int]], share: int) -> int:
    level = 0
    for low, high, _ in taken:
        if low - level >= share:
            break
        level = max(level, high)
    return level
