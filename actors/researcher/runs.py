"""Runs in the background: what a researcher started and goes on thinking beside.

Promises:
- A run is on disk, with all that it needs, before it begins; its key is that of the call that started it, so that the
  services act once however often it is taken up again.
- Its result is on disk before anybody is told; the brain is told of it once, with the turn that it then decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from actors.researcher.types import ToolResult
from cluster.clock import now_us
from cluster.store import Store
from cluster.wire import pack, unpack

_LIMIT = 16 << 20
_DDL = """
CREATE TABLE IF NOT EXISTS runs (
    key TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    tool TEXT NOT NULL,
    args BLOB NOT NULL,
    plan BLOB NOT NULL,
    started_us INTEGER NOT NULL,
    result BLOB,
    told_turn INTEGER
);
"""
AT_ONCE = -1
"""`told_turn` of a run whose result was the answer of the very call that started it."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run: `name` is what the brain calls it, `plan` what its tool made of the arguments `args`."""

    key: str
    name: str
    tool: str
    args: dict[str, Any]
    plan: dict[str, Any]
    result: ToolResult | None

    def told(self) -> dict[str, Any]:
        """What the brain is told of a run that ended."""
        result = None if self.result is None else self.result.to_dict()
        return {"run": self.name, "tool": self.tool, "args": self.args, "result": result}


Carry = Callable[[Run], Awaitable[ToolResult]]


class Runs:
    """The runs of one researcher, in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.changed = asyncio.Event()
        """Set when a run ends; whoever waits for it clears it first."""
        store.schema(_DDL)

    def find(self, key: str) -> Run | None:
        """The run that a call started."""
        rows = self._store.query("SELECT * FROM runs WHERE key = ?", (key,))
        return _run(rows[0]) if rows else None

    def open(self, key: str, tool: str, args: dict[str, Any], plan: dict[str, Any]) -> Run:
        """Write a run down; the first word on a key stays."""
        with self._store.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO runs (key, name, tool, args, plan, started_us) VALUES (?, ?, ?, ?, ?, ?)",
                (key, run_name(key), tool, pack(args), pack(plan), now_us()),
            )
            return _run(db.execute("SELECT * FROM runs WHERE key = ?", (key,)).fetchone())

    def carry_run(self, run: Run, carry: Carry) -> None:
        """Carry a run to its end beside everything else; one that is carried or has ended is left as it is."""
        if run.result is None and run.key not in self._tasks:
            task = asyncio.create_task(self._carry_to_end(run, carry))
            self._tasks[run.key] = task
            task.add_done_callback(lambda _: self._tasks.pop(run.key, None))

    async def _carry_to_end(self, run: Run, carry: Carry) -> None:
        result = await carry(run)
        with self._store.transaction() as db:
            db.execute("UPDATE runs SET result = ? WHERE key = ?", (pack(result.to_dict()), run.key))
        self.changed.set()

    async def at_once(self, key: str, seconds: float) -> ToolResult | None:
        """The result of a run that ends within `seconds`, which then is told; `None` when it goes on."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait({task}, timeout=seconds)
        run = self.find(key)
        if run is None or run.result is None:
            return None
        with self._store.transaction() as db:
            db.execute("UPDATE runs SET told_turn = ? WHERE key = ? AND told_turn IS NULL", (AT_ONCE, key))
        return run.result

    def going(self) -> list[Run]:
        """Runs without a result, oldest first."""
        return [_run(row) for row in self._store.query("SELECT * FROM runs WHERE result IS NULL ORDER BY rowid")]

    def untold(self) -> list[Run]:
        """Runs that ended and of which the brain was not told, oldest first."""
        sql = "SELECT * FROM runs WHERE result IS NOT NULL AND told_turn IS NULL ORDER BY rowid"
        return [_run(row) for row in self._store.query(sql)]

    def mark_told(self, turn: int, names: tuple[str, ...]) -> None:
        """Note that the brain is told of runs with turn `turn`, in the caller's transaction if one is open."""
        with self._store.transaction() as db:
            sql = "UPDATE runs SET told_turn = ? WHERE name = ? AND told_turn IS NULL"
            db.executemany(sql, [(turn, name) for name in names])


def run_name(key: str) -> str:
    """`run-12-0` for the key `<researcher>/12/0` of call 0 of turn 12."""
    return "run-" + "-".join(key.split("/")[-2:])


def _run(row: Any) -> Run:
    result = None if row["result"] is None else ToolResult.from_dict(unpack(row["result"], _LIMIT))
    args, plan = unpack(row["args"], _LIMIT), unpack(row["plan"], _LIMIT)
    return Run(row["key"], row["name"], row["tool"], args, plan, result)
