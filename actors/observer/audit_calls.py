"""The gateway's journal against the ledger that paid, the price table, and the exchanges that it kept.

For every settled reservation of a call there is one event that says why; what it says was used costs exactly what was
charged; and an answered call has an exchange whose own usage costs just that, at prices that are in the table (one that
tells no usage is charged at its worst, and its event says so). A reservation that was released paid for nothing. Only
what is reserved now may be without an event.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from actors.gateway import recorder
from actors.gateway.pricing import Tariff, Tokens, billed, tariff_table, unpriced
from actors.gateway.recorder import RecordError
from actors.gateway.requests import asks_long_cache
from actors.observer.books import Books, Reservation, replay
from actors.observer.finding import Finding
from actors.observer.run_data import RunData
from cluster.journal import Event
from cluster.names import tokens_account
from cluster.store import open_readonly

STORE = "gateway"
HOLD, SPEND = "hold/tokens/", "spend/tokens/"
OUTCOMES = ("call_answered", "attempt_lost")


def audit_calls(run: RunData) -> tuple[int, list[Finding]]:
    """Every call that was paid for, and every payment for a call."""
    data = run.stores.get(STORE)
    scheduler = run.stores.get("scheduler")
    books = replay(() if scheduler is None else scheduler.events)
    if data is None:
        paid = [r for r in books.reservations.values() if r.key.startswith((HOLD, SPEND))]
        return 0, [Finding("scheduler", r.reserved_seq, f"{r.key} pays for a call, no gateway is there") for r in paid]
    if data.broken is not None:
        return 0, []
    told = data.of(*OUTCOMES)
    unpaid = data.of("unpaid")
    tariffs = {} if run.config is None else tariff_table(run.config)
    findings = [*_twice(told), *_unpaid(unpaid)]
    for event in told:
        findings += _event(event, books, tariffs, unpaid)
    findings += _payments(books, told)
    findings += _exchanges(run, told)
    return len(told), sorted(findings, key=lambda finding: finding.seq or 0)


def _twice(told: list[Event]) -> Iterator[Finding]:
    seen: set[str] = set()
    answered: set[str] = set()
    for event in told:
        reservation, key = str(event.payload.get("reservation")), str(event.payload.get("key"))
        if reservation in seen:
            yield Finding(STORE, event.seq, f"reservation {reservation} was charged before")
        seen.add(reservation)
        if event.kind == "call_answered":
            if key in answered:
                yield Finding(STORE, event.seq, f"key {key} was answered before")
            answered.add(key)


def _unpaid(events: list[Event]) -> Iterator[Finding]:
    for event in events:
        reason = f"{event.payload.get('usd')} micro-dollars of {event.payload.get('reservation')} stand in no account"
        yield Finding(STORE, event.seq, reason)


def _event(event: Event, books: Books, tariffs: dict[str, Tariff], unpaid: list[Event]) -> Iterator[Finding]:
    try:
        reservation, usd = str(event.payload["reservation"]), int(event.payload["usd"])
        tokens, model = Tokens.from_dict(event.payload["tokens"]), str(event.payload["model"])
        researcher = str(event.payload["researcher"])
    except (KeyError, TypeError, ValueError) as error:
        yield Finding(STORE, event.seq, f"a {event.kind} event that lacks what it needs: {error!r}")
        return
    tariff = tariffs.get(model)
    if tariff is None:
        yield Finding(STORE, event.seq, f"{model} has no price in the campaign's configuration")
    elif tariff.cost(tokens) != usd:
        reason = f"{reservation} is charged {usd} micro-dollars, its tokens cost {tariff.cost(tokens)}"
        yield Finding(STORE, event.seq, reason)
    hold = books.reservations.get(f"hold/{reservation}")
    if hold is None:
        yield Finding(STORE, event.seq, f"the ledger knows no reservation {reservation}")
        return
    if hold.account != tokens_account(researcher):
        yield Finding(STORE, event.seq, f"{reservation} of {researcher} was paid by {hold.account}")
    if hold.state == "released":
        yield Finding(STORE, event.seq, f"{reservation} was charged, the ledger released it")
    elif hold.state == "settled":
        more = books.reservations.get(f"spend/{reservation}/over")
        rest = sum(int(e.payload["usd"]) for e in unpaid if e.payload.get("reservation") == reservation)
        paid = hold.charged.usd + (0 if more is None else more.charged.usd) + rest
        if paid != usd:
            yield Finding(STORE, event.seq, f"{reservation} costs {usd} micro-dollars, the ledger was told {paid}")


def _payments(books: Books, told: list[Event]) -> Iterator[Finding]:
    known = {f"hold/{event.payload.get('reservation')}" for event in told}
    known |= {f"spend/{event.payload.get('reservation')}/over" for event in told}
    for reservation in books.reservations.values():
        if reservation.key.startswith((HOLD, SPEND)) and _settled(reservation) and reservation.key not in known:
            yield Finding("scheduler", reservation.ended_seq, f"{reservation.key} pays for no call of the gateway")


def _settled(reservation: Reservation) -> bool:
    return reservation.state == "settled"


def _exchanges(run: RunData, told: list[Event]) -> Iterator[Finding]:
    """Each answered call's exchange is whole, is the one that the journal names, and costs what was charged."""
    tariffs = {} if run.config is None else tariff_table(run.config)
    db = open_readonly(run.paths.gateway_db)
    try:
        for sha in recorder.damaged(db):
            yield Finding(STORE, None, f"a part {sha} of the exchanges is damaged or missing")
        for event in told:
            if event.kind == "call_answered":
                reason = _exchange(db, event, tariffs)
                if reason is not None:
                    yield Finding(STORE, event.seq, reason)
    except sqlite3.DatabaseError as error:
        yield Finding(STORE, None, f"the exchanges cannot be read: {error}")
    finally:
        db.close()


def _exchange(db: sqlite3.Connection, event: Event, tariffs: dict[str, Tariff]) -> str | None:
    key = str(event.payload.get("key"))
    try:
        message = recorder.load_message(db, key)
    except (RecordError, ValueError, KeyError, TypeError) as error:
        return f"the exchange of {key} is damaged: {error}"
    if message is None:
        return f"the exchange of {key} is missing"
    if recorder.names(db, key) != (event.payload.get("request"), event.payload.get("answer")):
        return f"the exchange of {key} is not the one that was journaled"
    tariff = tariffs.get(str(event.payload.get("model")))
    unknown = unpriced(message) if event.payload.get("usd") else []
    if unknown:
        return f"the answer to {key} has no price in the table ({'; '.join(unknown)}): the vendor's bill may be another"
    tokens = billed(message, asks_long_cache(recorder.load_marks(db, key)))
    if tokens is None:
        return (
            None if event.payload.get("inexact") else f"the answer to {key} tells no usage, its charge does not say so"
        )
    if tariff is not None and tariff.cost(tokens) != event.payload.get("usd"):
        return f"the usage of {key} costs {tariff.cost(tokens)} micro-dollars, charged were {event.payload.get('usd')}"
    return None
