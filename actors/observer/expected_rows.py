"""The rows that a journal tells of the tables beside it: one function per table, from events to rows.

A column that the journal does not tell is left out of a row (an older version told fewer); what is covered is thereby
known for every run by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from actors.scheduler.admission import holder_of
from cluster.journal import Event
from cluster.objects import sha256_hex
from cluster.wire import unpack
from forum_actor.posts import idea_key

_LIMIT = 64 << 20
WHOLE = 1000


@dataclass(frozen=True, slots=True)
class Hashed:
    """Bytes with this sha256."""

    sha256: str

    def __eq__(self, stands: object) -> bool:
        return isinstance(stands, bytes) and sha256_hex(stands) == self.sha256

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Packed:
    """Bytes that hold this value; with `part`, a mapping that has at least what is in it."""

    value: Any
    part: bool = False

    def __eq__(self, stands: object) -> bool:
        if not isinstance(stands, bytes):
            return False
        found = unpack(stands, _LIMIT)
        if self.part and isinstance(found, dict):
            return all(name in found and found[name] == value for name, value in self.value.items())
        return bool(found == self.value)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of these."""

    values: tuple[Any, ...]

    def __eq__(self, stands: object) -> bool:
        return stands in self.values

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True)
class Told:
    """A row: the event that told it last, and what its columns hold."""

    seq: int
    values: dict[str, Any] = field(default_factory=dict)


Rows = dict[tuple[Any, ...], Told]


@dataclass(frozen=True, slots=True)
class Expected:
    """A table, the columns that name its rows, and the rows that events tell."""

    table: str
    key: tuple[str, ...]
    rows: Callable[[Iterable[Event]], Rows]
    select: str = "*"


def _take(payload: dict[str, Any], **columns: str) -> dict[str, Any]:
    """Columns from the fields of these names, as far as the payload has them."""
    return {column: payload[name] for column, name in columns.items() if name in payload}


def _of(events: Iterable[Event], *kinds: str) -> list[Event]:
    return [event for event in events if event.kind in kinds]


def _posts(events: Iterable[Event]) -> Rows:
    rows: Rows = {}
    for event in _of(events, "post"):
        post = event.payload
        held = idea_key(str(post["idea"])) if post["kind"] == "claim" and post.get("idea") else ""
        own = _take(post, id="id", author="author", kind="kind", expires_us="expires_us", at_us="at_us")
        rows[(post["seq"],)] = Told(event.seq, {**own, "idea_key": held, "post": Packed(post)})
    return rows


def _posts_text(events: Iterable[Event]) -> Rows:
    return {
        (event.payload["seq"],): Told(
            event.seq, _take(event.payload, title="title", body="body", author="author", kind="kind")
        )
        for event in _of(events, "post")
    }


def _pushes(events: Iterable[Event]) -> Rows:
    names = {name: name for name in ("snapshot", "author", "parent", "note", "at_us")}
    return {
        (number,): Told(event.seq, _take(event.payload, **names)) for number, event in enumerate(_of(events, "push"), 1)
    }


def _held_posts(events: Iterable[Event]) -> Rows:
    found: Rows = {}
    for event in _of(events, "quarantined"):
        for post in (event.payload["post"], *event.payload.get("replies", ())):
            found.setdefault((int(str(post).rpartition("-")[2]),), Told(event.seq))
    return found


def _held_snapshots(events: Iterable[Event]) -> Rows:
    found: Rows = {}
    for event in _of(events, "quarantined"):
        for snapshot in event.payload.get("snapshots", ()):
            found.setdefault((snapshot,), Told(event.seq))
    return found


def _submissions(events: Iterable[Event]) -> Rows:
    rows: Rows = {}
    same = {name: name for name in ("key", "tier", "domain", "code_hash", "snapshot", "name", "researcher")}
    for event in _of(events, "submission", "submission_answered", "submission_refused"):
        told, key = event.payload, (event.payload.get("submission"),)
        row = rows.setdefault(key, Told(event.seq))
        row.seq = event.seq
        row.values |= _take(told, **same)
        if event.kind == "submission":
            row.values |= {"state": OneOf(("open", "charged")), "record_id": "", "answer": None}
        elif event.kind == "submission_answered":
            row.values |= {"state": "answered", **_take(told, record_id="record_id")}
            row.values |= {"answer": Hashed(told["answer_sha256"])} if "answer_sha256" in told else {}
        else:
            answer = {name: told[name] for name in ("reason", "message", "detail") if name in told}
            row.values |= {"state": "refused", "answer": Packed(answer)}
        if event.kind == "submission_answered" and "answer_sha256" not in told:
            row.values.pop("answer", None)
    return rows


def _ladder(events: Iterable[Event]) -> Rows:
    names = {name: name for name in ("level", "holder", "step", "record_id", "at_us")}
    return {
        (number,): Told(event.seq, _take(event.payload, **names))
        for number, event in enumerate(_of(events, "ladder"), 1)
    }


def _records(events: Iterable[Event]) -> Rows:
    return {
        (number,): Told(event.seq, {"body": Packed(event.payload)})
        for number, event in enumerate(_of(events, "record"), 1)
    }


def _results(events: Iterable[Event]) -> Rows:
    rows: Rows = {}
    for event in _of(events, "work_done"):
        told = {name: value for name, value in event.payload.items() if name != "work"}
        digest = told.pop("body_sha256", None)
        rows[(event.payload["work"],)] = Told(event.seq, {} if digest is None else {"body": Hashed(digest)})
    return rows


def _leases(events: Iterable[Event]) -> Rows:
    rows: Rows = {}
    for event in _of(events, "lease_requested", "lease_granted", "lease_lost", "lease_ended"):
        told = event.payload
        row = rows.setdefault((told["request_id"],), Told(event.seq))
        row.seq = event.seq
        row.values |= _take(told, key="key", account="account", kind="kind", label="label")
        row.values["holder"] = holder_of(str(told["account"]))
        row.values["thousandths"] = round(told["gpus"] * WHOLE)
        row.values |= _LEASE_STEPS[event.kind](told)
    return rows


def _requested(told: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"state": "queued", "attempt": 1, "slot": None, "threads": None, "result": None}
    values |= {"gpu_ms": 0, "usd": 0}
    if "seconds" in told:
        values["duration_ms"] = round(told["seconds"] * 1000)
    if "gpu_ms" in (told.get("reserved") or {}):
        values["reserved_gpu_ms"] = told["reserved"]["gpu_ms"]
    if "request_sha256" in told:
        values["request"] = Hashed(told["request_sha256"])
    return values


def _granted(told: dict[str, Any]) -> dict[str, Any]:
    return {"state": "running", **_take(told, slot="slot", threads="threads", attempt="attempt")}


def _lost(told: dict[str, Any]) -> dict[str, Any]:
    again = {"attempt": told["attempt"] + 1} if "attempt" in told else {}
    return {"state": "queued", "slot": None, "threads": None, **again}


def _ended(told: dict[str, Any]) -> dict[str, Any]:
    values = {"state": told["status"], **_take(told, attempt="attempt", gpu_ms="gpu_ms", usd="usd")}
    if "result_sha256" in told:
        return {**values, "result": Hashed(told["result_sha256"])}
    facts = _take(told, lease_id="lease_id", status="status", gpu_ms="gpu_ms", sandbox_grade="sandbox_grade")
    return {**values, "result": Packed(facts, part=True)}


_LEASE_STEPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "lease_requested": _requested,
    "lease_granted": _granted,
    "lease_lost": _lost,
    "lease_ended": _ended,
}


def _accounts(events: Iterable[Event]) -> Rows:
    return {
        (event.payload["account"],): Told(event.seq, _take(event.payload, parent="parent"))
        for event in _of(events, "account_opened")
    }


def _reservations(events: Iterable[Event]) -> Rows:
    return {
        (event.payload["key"],): Told(event.seq, _take(event.payload, account="account", holder="holder", note="note"))
        for event in _of(events, "reserved")
    }


def _facts(events: Iterable[Event]) -> Rows:
    rows: Rows = {}
    for event in events:
        if event.kind != "turn":
            value = {name: held for name, held in event.payload.items() if name != "researcher"}
            rows[(event.kind,)] = Told(event.seq, {"value": Packed(value)})
    return rows


def _collapses(events: Iterable[Event]) -> Rows:
    return {
        (number,): Told(
            event.seq, {"text": event.payload["text"], "directions": json.dumps(event.payload["directions"])}
        )
        for number, event in enumerate(_of(events, "ideas_collapsed"), 1)
    }


EXPECTED: dict[str, tuple[Expected, ...]] = {
    "director": (Expected("collapses", ("number",), _collapses),),
    "forum": (
        Expected("posts", ("seq",), _posts),
        Expected("posts_text", ("rowid",), _posts_text, "rowid, *"),
        Expected("pushes", ("seq",), _pushes),
        Expected("held_posts", ("seq",), _held_posts),
        Expected("held_snapshots", ("snapshot",), _held_snapshots),
    ),
    "evaluator": (
        Expected("submissions", ("id",), _submissions),
        Expected("ladder", ("rung",), _ladder),
        Expected("records", ("number",), _records),
        Expected("shelf", ("key",), _results),
    ),
    "scheduler": (
        Expected("leases", ("request_id",), _leases),
        Expected("accounts", ("name",), _accounts),
        Expected("reservations", ("key",), _reservations),
    ),
    "researcher": (Expected("facts", ("name",), _facts),),
}
"""By store (all researchers alike): the tables that its journal tells."""
