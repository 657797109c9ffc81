"""What the scheduler shows of itself: plain data for a live page. Reads only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.scheduler.book import Book, Entry
from actors.scheduler.ledger import Ledger
from actors.scheduler.policy import WHOLE


def describe(book: Book, ledger: Ledger, resting: Callable[[str], bool], now_us: int) -> dict[str, Any]:
    """`{queue_length, waiting, running, slots, totals, accounts, holders}`.

    Ages are seconds since submission (waiting) or grant (running); `used` is the share of a slot in use; `totals` are
    spent micro-dollars and GPU-milliseconds; `accounts` are the ledger's balances by name.
    """
    waiting, running, totals = book.queued(), book.running(), ledger.totals()
    return {
        "queue_length": len(waiting),
        "waiting": [_row(e, now_us - e.submitted_us) for e in waiting],
        "running": [_row(e, now_us - (e.granted_us or now_us)) | _place(e, now_us) for e in running],
        "slots": _slots(book, running, resting),
        "totals": {"usd": totals.usd, "gpu_ms": totals.gpu_ms},
        "accounts": {name: ledger.balance(name).to_dict() for name in ledger.accounts()},
        "holders": {name: usage.gpu_ms for name, usage in book.usage().items()},
    }


def _row(entry: Entry, age_us: int) -> dict[str, Any]:
    return {
        "request_id": entry.request_id,
        "key": entry.key,
        "account": entry.account,
        "holder": entry.holder,
        "kind": entry.kind,
        "label": entry.label,
        "gpus": entry.thousandths / WHOLE,
        "seconds": entry.duration_ms / 1000,
        "attempt": entry.attempt,
        "age_seconds": max(0, age_us) / 1e6,
    }


def _place(entry: Entry, now_us: int) -> dict[str, Any]:
    return {
        "lease_id": entry.lease_id,
        "slot": entry.slot,
        "threads": entry.threads,
        "seconds_left": max(0, entry.ends_us - now_us) / 1e6,
        "cancel_asked": entry.cancel_asked,
    }


def _slots(book: Book, running: list[Entry], resting: Callable[[str], bool]) -> list[dict[str, Any]]:
    rows = []
    for name, slot in book.slots().items():
        here = [e for e in running if e.slot == name]
        state = "retired" if slot.retired else "resting" if resting(name) else "open"
        rows.append(
            {
                "name": name,
                "node": slot.info.node,
                "gpu_name": slot.info.gpu_name,
                "threads": slot.info.threads,
                "sandbox_grade": slot.info.sandbox_grade,
                "state": state,
                "used": sum(e.thousandths for e in here) / WHOLE,
                "leases": [e.lease_id for e in here],
            }
        )
    return rows
