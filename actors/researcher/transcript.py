"""The durable memory of a researcher: one row per turn, one row per call, written ahead.

Promises:
- What the brain sees is on disk before it is asked, and what it decided before the first call runs; each result is on
  disk before the next call runs. A restarted researcher therefore asks about the same observation, and repeats no
  decision and no call whose result is known.
- Each of these waits for the disk but the result of a turn's last call, which waits with the end of the turn: should
  power fail between them, that call is done again under its key, or told to be interrupted.
- A finished turn and its journal event `turn` are one transaction. At most one turn is unfinished: the last.
- What a model said comes back exactly as it was given.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actors.researcher.runs import Runs
from actors.researcher.types import Decision, ToolCall, ToolOutcome, ToolResult, Turn, TurnInput
from cluster.clock import now_us
from cluster.journal import Journal
from cluster.objects import sha256_hex
from cluster.store import Store
from cluster.wire import pack, unpack

_LIMIT = 16 << 20
_DDL = """
CREATE TABLE IF NOT EXISTS turns (
    turn INTEGER PRIMARY KEY,
    seen BLOB NOT NULL,
    said TEXT,
    ending TEXT NOT NULL DEFAULT '',
    began_us INTEGER NOT NULL,
    finished_us INTEGER,
    wall_ms INTEGER NOT NULL DEFAULT 0,
    wall_charged INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS calls (
    turn INTEGER NOT NULL REFERENCES turns (turn),
    idx INTEGER NOT NULL,
    name TEXT NOT NULL,
    args BLOB NOT NULL,
    note TEXT NOT NULL,
    started_us INTEGER,
    result BLOB,
    PRIMARY KEY (turn, idx)
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Pending:
    """A call of the unfinished turn; `result` is `None` when none is stored, `started` when it was marked as begun."""

    index: int
    call: ToolCall
    started: bool
    result: ToolResult | None


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """The turn that was begun and not finished; while it is not `decided` it has no calls."""

    number: int
    seen: TurnInput
    decided: bool
    calls: tuple[Pending, ...]
    ending: str


class Transcript:
    """The transcript of `researcher` in `store`."""

    def __init__(self, store: Store, journal: Journal, runs: Runs, researcher: str) -> None:
        """`runs` are those of the same researcher, in the same store."""
        self._store = store
        self._runs = runs
        self._journal = journal
        self._researcher = researcher
        store.schema(_DDL)
        self._facts = {row["name"]: unpack(row["value"], _LIMIT) for row in store.query("SELECT * FROM facts")}
        self._history = [self._load_turn(row) for row in store.query(_FINISHED, (0,))]

    @property
    def history(self) -> tuple[Turn, ...]:
        """Every finished turn, oldest first."""
        return tuple(self._history)

    def observed(self) -> list[TurnInput]:
        """What the brain saw in every turn, of the unfinished one, too."""
        left_open = self.open_turn()
        return [turn.seen for turn in self._history] + ([] if left_open is None else [left_open.seen])

    def next_turn(self) -> int:
        """The number of the next turn to decide."""
        return len(self._history)

    def observe(self, turn: int, seen: TurnInput, wall_ms: int) -> OpenTurn:
        """Begin a turn with what the brain is about to see; it is thereby told of the runs in the news.

        `wall_ms`, here and below, is the wall time since the step before, which the turn has taken so far.
        """
        with self._store.transaction() as db:
            db.execute(
                "INSERT INTO turns (turn, seen, began_us, wall_ms) VALUES (?, ?, ?, ?)",
                (turn, pack(seen.to_dict()), now_us(), wall_ms),
            )
            self._runs.mark_told(turn, tuple(str(news["run"]) for news in seen.news))
        return OpenTurn(turn, seen, False, (), seen.ending)

    def decide(self, turn: OpenTurn, decision: Decision, wall_ms: int) -> OpenTurn:
        """Write down what the brain decided. Raises `WireError` on arguments that are no plain data."""
        rows = [
            (turn.number, index, call.name, pack(call.args), call.note) for index, call in enumerate(decision.calls)
        ]
        with self._store.transaction() as db:
            sql = "UPDATE turns SET said = ?, ending = ?, wall_ms = wall_ms + ? WHERE turn = ?"
            db.execute(sql, (json.dumps(decision.said), decision.ending, wall_ms, turn.number))
            db.executemany("INSERT INTO calls (turn, idx, name, args, note) VALUES (?, ?, ?, ?, ?)", rows)
        calls = tuple(Pending(index, call, False, None) for index, call in enumerate(decision.calls))
        return OpenTurn(turn.number, turn.seen, True, calls, turn.seen.ending or decision.ending)

    def open_turn(self) -> OpenTurn | None:
        """The unfinished turn, if there is one."""
        rows = self._store.query("SELECT * FROM turns WHERE finished_us IS NULL")
        if not rows:
            return None
        row = rows[0]
        seen = TurnInput.from_dict(unpack(row["seen"], _LIMIT))
        calls = self._store.query(_CALLS, (row["turn"],))
        ending = seen.ending or row["ending"]
        return OpenTurn(int(row["turn"]), seen, row["said"] is not None, tuple(_pending(c) for c in calls), ending)

    def mark_started(self, turn: int, index: int) -> None:
        """Note that a call that must not be repeated is about to run."""
        with self._store.transaction() as db:
            db.execute("UPDATE calls SET started_us = ? WHERE turn = ? AND idx = ?", (now_us(), turn, index))

    def store_result(self, turn: int, index: int, result: ToolResult, wall_ms: int, *, last: bool) -> None:
        """Keep the result of a call, the first one for ever; `last`: the turn is finished next."""
        with self._store.transaction(lazy=last) as db:
            db.execute(
                "UPDATE calls SET result = ? WHERE turn = ? AND idx = ? AND result IS NULL",
                (pack(result.to_dict()), turn, index),
            )
            db.execute("UPDATE turns SET wall_ms = wall_ms + ? WHERE turn = ?", (wall_ms, turn))

    def finish(self, turn: int, wall_ms: int) -> Turn:
        """Close a turn all of whose results are stored; its wall time is still to be charged."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE turns SET finished_us = ?, wall_ms = wall_ms + ? WHERE turn = ? AND finished_us IS NULL",
                (now_us(), wall_ms, turn),
            )
            row = db.execute("SELECT * FROM turns WHERE turn = ?", (turn,)).fetchone()
            finished = self._load_turn(row)
            calls = [{"name": d.call.name, "ok": d.result.ok, "reason": d.result.reason} for d in finished.done]
            payload = {"researcher": self._researcher, "turn": turn, "calls": calls, "wall_ms": row["wall_ms"]}
            payload["content_sha256"] = turn_sha256(row, db.execute(_CALLS, (turn,)).fetchall())
            self._journal.append("turn", payload)
        self._history.append(finished)
        return finished

    def uncharged(self) -> list[tuple[int, int]]:
        """Finished turns whose wall time is not yet charged: `(turn, wall_ms)`."""
        rows = self._store.query("SELECT turn, wall_ms FROM turns WHERE finished_us IS NOT NULL AND wall_charged = 0")
        return [(row["turn"], row["wall_ms"]) for row in rows]

    def mark_charged(self, turn: int) -> None:
        """Note that the wall time of a turn was charged (or refused for good)."""
        with self._store.transaction(lazy=True) as db:
            db.execute("UPDATE turns SET wall_charged = 1 WHERE turn = ?", (turn,))

    def wall_ms(self) -> int:
        """Wall time of all turns, of an open one up to its last step, milliseconds."""
        return int(self._store.query("SELECT coalesce(sum(wall_ms), 0) AS total FROM turns")[0]["total"])

    def fact(self, name: str) -> dict[str, Any] | None:
        """A stored fact (`started`, `stop`, `ended`, `redirected`), or `None`."""
        return self._facts.get(name)

    def set_fact(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        """Store a fact once, with a journal event of that name; the first value stays and is returned."""
        known = self.fact(name)
        if known is not None:
            return known
        with self._store.transaction() as db:
            db.execute("INSERT INTO facts VALUES (?, ?)", (name, pack(value)))
            self._journal.append(name, {"researcher": self._researcher, **value})
        self._facts[name] = value
        return value

    def redirect(self, direction: str) -> None:
        """Keep a new direction; the first one stays, and at the end none is of use."""
        if self.fact("ended") is None:
            self.set_fact("redirected", {"direction": direction, "turn": self.next_turn()})

    @property
    def redirected(self) -> dict[str, Any] | None:
        """The new direction and the `turn` that was next when it came."""
        return self.fact("redirected")

    def _load_turn(self, row: sqlite3.Row) -> Turn:
        return _turn(row, self._store.query(_CALLS, (row["turn"],)))


_FINISHED = "SELECT * FROM turns WHERE finished_us IS NOT NULL AND turn >= ? ORDER BY turn"
_CALLS = "SELECT * FROM calls WHERE turn = ? ORDER BY idx"


def read_turns(db: sqlite3.Connection, first: int = 0) -> Iterator[Turn]:
    """Finished turns from number `first` on, for a reader of a store that another process may be writing."""
    for row in db.execute(_FINISHED, (first,)).fetchall():
        yield _turn(row, db.execute(_CALLS, (row["turn"],)).fetchall())


TURN_CONTENT = ("seen", "said", "ending")
CALL_CONTENT = ("idx", "name", "args", "note", "result")


def turn_sha256(row: sqlite3.Row, calls: list[sqlite3.Row]) -> str:
    """What names a finished turn in the journal: a hash over what was seen, said, called and answered."""
    told = [row[name] for name in TURN_CONTENT]
    return sha256_hex(pack([told, [[call[name] for name in CALL_CONTENT] for call in calls]]))


def _turn(row: sqlite3.Row, calls: list[sqlite3.Row]) -> Turn:
    done = []
    for pending in (_pending(call) for call in calls):
        missing = ToolResult.refused("no_result", "the call has no stored result")
        done.append(ToolOutcome(pending.call, pending.result or missing))
    seen = TurnInput.from_dict(unpack(row["seen"], _LIMIT))
    return Turn(int(row["turn"]), seen, tuple(done), tuple(json.loads(row["said"])), seen.ending or row["ending"])


def _pending(row: sqlite3.Row) -> Pending:
    call = ToolCall(row["name"], unpack(row["args"], _LIMIT), row["note"])
    result = None if row["result"] is None else ToolResult.from_dict(unpack(row["result"], _LIMIT))
    return Pending(int(row["idx"]), call, row["started_us"] is not None, result)
