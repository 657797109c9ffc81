"""`summary.json`: the whole campaign in one document, every figure with the record or event that it comes from.

Money stands as dollars (decimal) and as integer micro-dollars (`*_micro`); intervals are 95 %; what is not known is
null. It can be made at any time, of a campaign that runs, was killed, or has ended.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from actors.observer.books import Books, replay
from actors.observer.calls import model_calls
from actors.observer.diversity import alarm
from actors.observer.leases import LeaseRow, lease_rows
from actors.observer.made_by import made_by
from actors.observer.plain import plain, write_json
from actors.observer.run_data import RunData
from actors.observer.series import best_over_time, diversity, end_us, ladder, phases, start_us
from actors.observer.standings import (
    OFF_THE_BOARD,
    Row,
    baselines,
    leaderboard,
    primary_domain,
    record_rows,
    transfer,
)
from cluster.journal import Event
from cluster.money import MICRO, MS_PER_HOUR, Amounts, Caps
from cluster.names import CAMPAIGN, RESEARCHERS, researcher_account

FAILED = ("expired", "lost", "cancelled")


def build_summary(run: RunData) -> dict[str, Any]:
    """The summary of a run as plain data."""
    events = run.stores["scheduler"].events if "scheduler" in run.stores else ()
    books, leases, rows = replay(events), lease_rows(events), record_rows(run)
    domain = primary_domain(run, rows)
    known, begin = baselines(rows, domain), start_us(run)
    scored = [row for row in rows if not row.is_baseline and row.domain == domain and row.status not in OFF_THE_BOARD]
    board = [row for row in scored if row.tier == "board"] or [row for row in scored if row.tier == "dev"]
    ideas = diversity(run)
    summary = {
        "campaign": run.name,
        "preset": None if run.config is None else run.config.preset,
        "phase": phases(run)[-1]["phase"] if phases(run) else "not started",
        "phases": phases(run),
        "started_us": begin,
        "wall_seconds": max(0.0, (end_us(run) - begin) / 1e6),
        "task": _task(run, domain, known),
        "baselines": [row.to_dict() for row in known.values()],
        "leaderboard": [row.to_dict() for row in leaderboard(rows, domain)],
        "transfer": [row.to_dict() for row in transfer(rows, domain)],
        "researchers": [_researcher(run, name, books, leases, scored) for name in researcher_ids(run)],
        "totals": _totals(run, books, leases, rows),
        "model_calls": model_calls(run, researcher_ids(run)),
        "diversity": ideas,
        "collapses": _collapses(run, begin),
        "best_over_time": best_over_time(board, books, begin),
        "ladder": ladder(run),
        "failures": _failures(run, leases, rows),
        "sandbox_grade": _worst_grade(rows, leases),
        "evaluator_public_key": _fingerprint(run.public_key),
        "evaluator_key": None if run.public_key is None else run.public_key.decode("ascii", "replace").strip(),
        "made_by": made_by(),
        "chain_heads": {name: {"seq": d.head_seq, "hash": d.head} for name, d in run.stores.items()},
        "warnings": [*run.warnings, *filter(None, [alarm(ideas)])],
    }
    document: dict[str, Any] = plain(summary)
    return document


def write_summary(run: RunData, verification: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write `summary.json` into the run directory; what was written. `verification` is what verifying the run found."""
    summary = build_summary(run)
    if verification is not None:
        summary["verification"] = plain(verification)
    write_json(run.paths.summary, summary)
    return summary


def dollars(micro: int) -> dict[str, Any]:
    """An amount of money in both forms."""
    return {"dollars": micro / MICRO, "dollars_micro": micro}


def _task(run: RunData, domain: str, known: dict[str, Row]) -> dict[str, Any]:
    task = run.tasks.get(domain, {})
    weak, ceiling = known.get("weak"), known.get("ceiling")
    return {
        "domain": domain,
        "domains": [domain] if run.config is None else list(run.config.task.domains),
        "size": None if run.config is None or domain in run.config.task.files else run.config.task.size,
        "kind": task.get("kind"),
        "n_items": task.get("n_items"),
        "data_version": task.get("data_version"),
        "weak_accuracy": _accuracy(weak),
        "ceiling_accuracy": _accuracy(ceiling),
        "gap": _gap(weak, ceiling),
    }


def _accuracy(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "value": row.accuracy,
        "interval": row.accuracy_interval,
        "n": row.n,
        "seeds": row.seeds,
        "tier": row.tier,
        "record_ids": [row.record_id],
    }


def _gap(weak: Row | None, ceiling: Row | None) -> dict[str, Any] | None:
    """Ceiling minus weak. Its interval adds the half-widths of both in quadrature, as if they were independent.

    Both are scored on the same items, which makes them move together, so the true interval is a little narrower.
    """
    if weak is None or ceiling is None or weak.accuracy is None or ceiling.accuracy is None:
        return None
    value = ceiling.accuracy - weak.accuracy
    interval = None
    if weak.accuracy_interval is not None and ceiling.accuracy_interval is not None:
        widths = [(high - low) / 2 for low, high in (weak.accuracy_interval, ceiling.accuracy_interval)]
        interval = [value - math.hypot(*widths), value + math.hypot(*widths)]
    return {
        "value": value,
        "interval": interval,
        "n": min(weak.n, ceiling.n),
        "record_ids": [weak.record_id, ceiling.record_id],
    }


def researcher_ids(run: RunData) -> list[str]:
    """The team, from the configuration, else those that left a journal."""
    if run.config is not None:
        return list(run.config.researcher_ids())
    return [data.name.removeprefix("researcher/") for data in run.researchers()]


def _researcher(
    run: RunData, name: str, books: Books, leases: Sequence[LeaseRow], scored: Sequence[Row]
) -> dict[str, Any]:
    account = books.accounts.get(researcher_account(name))
    spent = Amounts() if account is None else account.spent
    own = [lease for lease in leases if _belongs(lease.account, name)]
    best = max(
        (row for row in scored if row.researcher == name and row.tier != "dev" and row.pgr is not None),
        key=lambda row: (row.tier == "seal", row.pgr),
        default=None,
    )
    ended = [e.payload for e in run.events("director", "researcher_ended") if e.payload.get("researcher") == name]
    return {
        "id": name,
        **_direction(run, name),
        **dollars(spent.usd),
        "model_dollars": books.spent(researcher_account(name, "tokens")).usd / MICRO,
        "gpu_hours": spent.gpu_ms / MS_PER_HOUR,
        "gpu_ms": spent.gpu_ms,
        "wall_hours": spent.wall_ms / MS_PER_HOUR,
        "wall_ms": spent.wall_ms,
        "answers": spent.answers,
        "caps": _caps(Caps() if account is None else account.caps),
        "account_event": None if account is None else account.opened_seq,
        "pilots": sum(lease.kind == "pilot" and lease.ended_seq is not None for lease in own),
        "submissions": _count(run.events("evaluator", "submission"), "researcher", name),
        "posts": _count(run.events("forum", "post"), "author", name),
        "snapshots": _count(run.events("forum", "push"), "author", name),
        "turns": len(run.events(f"researcher/{name}", "turn")),
        "best_pgr": None if best is None else best.pgr,
        "best_record_id": None if best is None else best.record_id,
        "ended": ended[-1].get("ended") if ended else None,
    }


def _collapses(run: RunData, begin: int) -> list[dict[str, Any]]:
    """The alarms of the campaign: when ideas collapsed, and who got which new direction."""
    events = run.events("director", "ideas_collapsed")
    return [{**event.payload, "t_seconds": (event.at_us - begin) / 1e6, "event": event.seq} for event in events]


def _direction(run: RunData, name: str) -> dict[str, Any]:
    if run.config is None:
        return {"direction": None, "direction_text": None, "brain": None}
    direction = run.config.direction_of(name)
    return {"direction": direction.id, "direction_text": direction.text, "brain": run.config.brain.kind}


def _caps(caps: Caps) -> dict[str, Any]:
    return {
        "dollars": None if caps.usd is None else caps.usd / MICRO,
        "dollars_micro": caps.usd,
        "gpu_hours": None if caps.gpu_ms is None else caps.gpu_ms / MS_PER_HOUR,
        "wall_hours": None if caps.wall_ms is None else caps.wall_ms / MS_PER_HOUR,
        "answers": caps.answers,
    }


def _belongs(account: str, researcher: str) -> bool:
    return (account + "/").startswith(f"{researcher_account(researcher)}/")


def _count(events: Sequence[Event], field: str, value: str) -> int:
    return sum(event.payload.get(field) == value for event in events)


def _totals(run: RunData, books: Books, leases: Sequence[LeaseRow], rows: Sequence[Row]) -> dict[str, Any]:
    spent, root = books.total(), books.accounts.get(CAMPAIGN)
    kinds = Counter(lease.kind for lease in leases if lease.ended_seq is not None)
    offices = {
        name.removeprefix(f"{CAMPAIGN}/"): dollars(account.spent.usd)
        for name, account in books.accounts.items()
        if account.parent == CAMPAIGN and not name.startswith(RESEARCHERS)
    }
    return {
        **dollars(spent.usd),
        "gpu_hours": spent.gpu_ms / MS_PER_HOUR,
        "gpu_ms": spent.gpu_ms,
        "wall_hours": spent.wall_ms / MS_PER_HOUR,
        "answers": spent.answers,
        "caps": _caps(Caps() if root is None else root.caps),
        "offices": offices,
        "leases": sum(kinds.values()),
        "pilots": kinds["pilot"],
        "leases_by_kind": dict(sorted(kinds.items())),
        "submissions": len(run.events("evaluator", "submission")),
        "records": len(rows),
        "posts": len(run.events("forum", "post")),
        "snapshots": len({event.payload.get("snapshot") for event in run.events("forum", "push")}),
        "turns": sum(len(data.of("turn")) for data in run.researchers()),
    }


def _failures(run: RunData, leases: Sequence[LeaseRow], rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "leases": [
            {
                "lease_id": lease.lease_id,
                "account": lease.account,
                "kind": lease.kind,
                "label": lease.label,
                "status": lease.status,
                "event": lease.ended_seq,
            }
            for lease in leases
            if lease.status in FAILED
        ],
        "seeds": [row.to_dict() for row in rows if row.failed_seeds],
        "refused_submissions": [
            {
                "researcher": event.payload.get("researcher"),
                "method": event.payload.get("name"),
                "tier": event.payload.get("tier"),
                "reason": event.payload.get("reason"),
                "event": event.seq,
            }
            for event in run.events("evaluator", "submission_refused")
        ],
        "quarantined": [
            {
                "post": event.payload.get("post"),
                "author": event.payload.get("author"),
                "reasons": [str(r.get("reason")) for r in event.payload.get("reasons") or ()],
                "read_by": sorted(event.payload.get("read_by") or ()),
                "event": event.seq,
            }
            for event in run.events("forum", "quarantined")
        ],
        "disqualified": [row.to_dict() for row in rows if row.status in OFF_THE_BOARD],
    }


def _worst_grade(rows: Sequence[Row], leases: Sequence[LeaseRow]) -> str | None:
    grades = {row.sandbox_grade for row in rows if row.sandbox_grade}
    grades |= {lease.sandbox_grade for lease in leases if lease.sandbox_grade}
    return max(grades) if grades else None


def _fingerprint(key: bytes | None) -> str | None:
    return None if key is None else hashlib.sha256(key.strip()).hexdigest()
