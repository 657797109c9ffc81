"""How long a phase has been worked on, durable: time in which no director was alive, or that `clock` left out, does not
count.
"""

from __future__ import annotations

import time

from cluster.clock import StopWatchClock
from cluster.store import Store

SAVE_S = 5.0
"""At most this much is counted too little after a crash."""

_DDL = "CREATE TABLE IF NOT EXISTS worked (phase TEXT PRIMARY KEY, seconds REAL NOT NULL);"


class Stopwatch:
    """Counts from the moment it is made, on top of what stands on disk."""

    def __init__(self, store: Store, phase: str, clock: StopWatchClock | None = None) -> None:
        store.schema(_DDL)
        self._store, self._phase = store, phase
        self._before = worked_seconds(store, phase)
        self._clock = clock or StopWatchClock()
        self._began = self._clock()
        self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of work on the phase so far."""
        return self._before + self._clock() - self._began

    def save(self, now: bool = False) -> None:
        """Write the count down, if it is due or `now`."""
        if now or time.monotonic() - self._saved > SAVE_S:
            self._saved = time.monotonic()
            with self._store.transaction() as db:
                db.execute("INSERT OR REPLACE INTO worked VALUES (?, ?)", (self._phase, self.seconds))


def worked_seconds(store: Store, phase: str) -> float:
    """What stands on disk for a phase."""
    store.schema(_DDL)
    rows = store.query("SELECT seconds FROM worked WHERE phase = ?", (phase,))
    return float(rows[0]["seconds"]) if rows else 0.0
