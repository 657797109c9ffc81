"""The time of one store: durable, comparable across restarts, and never stepped.

Its first reading is the wall clock's, so that what it dates can be read by people; from then on it only goes forward,
at the pace of real time, whatever is done to the wall clock. The time in which no process was alive counts. The time in
which the machine was off does not: nobody could measure it.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.clock import Mark, now_us
from cluster.store import Store

_DDL = """
CREATE TABLE IF NOT EXISTS steady_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    boot TEXT NOT NULL,
    boot_us INTEGER NOT NULL,
    at_us INTEGER NOT NULL
);
"""


class SteadyClock:
    """Call it for microseconds that count like the Unix epoch's, but are never set."""

    def __init__(self, store: Store, latest_us: int = 0, read: Callable[[], Mark] = Mark.now) -> None:
        """`latest_us` is the latest time of this clock in the store: none that it gives is earlier."""
        store.schema(_DDL)
        self._read = read
        here = read()
        with store.transaction() as db:
            row = db.execute("SELECT boot, boot_us, at_us FROM steady_clock").fetchone()
            passed = None if row is None else Mark(row["boot"], row["boot_us"]).until(here)
            begun = now_us() if row is None else row["at_us"]
            at = max(begun + (passed or 0), latest_us)
            if passed is None or at != begun + passed:
                db.execute("INSERT OR REPLACE INTO steady_clock VALUES (1, ?, ?, ?)", (here.boot, here.us, at))
        self._ahead = at - here.us

    def __call__(self) -> int:
        """Microseconds, now."""
        return self._ahead + self._read().us
