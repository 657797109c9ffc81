"""The board: one Ladder for the whole campaign, durable, and the order in which methods become finalists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actors.evaluator.records import Record
from actors.evaluator.result_store import ScoredRun
from actors.evaluator.scoring import ReferenceScores
from actors.evaluator.statistics import compare
from actors.evaluator.submissions import Submission
from actors.evaluator.tiers import Ladder, ladder_step
from cluster.clock import now_us
from cluster.journal import Journal
from cluster.store import Store
from gpu_pool.weak_to_strong.pgr import pgr

_DDL = """
CREATE TABLE IF NOT EXISTS ladder (
    rung INTEGER PRIMARY KEY,
    level REAL NOT NULL,
    holder TEXT NOT NULL,
    step REAL NOT NULL,
    record_id TEXT NOT NULL,
    at_us INTEGER NOT NULL
);
"""


class Board:
    """The Ladder's rungs; the last one is its state."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        store.schema(_DDL)

    def start(self, bench: ReferenceScores, limit: int) -> None:
        """Put the best baseline on the first rung, once."""
        holder, run = max(bench.baselines.values(), key=lambda entry: entry[1].mean)
        with self._store.transaction():
            if self.state() is None:
                self._climb(Ladder(run.mean, holder.code_hash, ladder_step(limit, bench.items)), "")

    def state(self) -> Ladder | None:
        """The Ladder as it stands; `None` before the campaign is prepared."""
        rows = self._store.query("SELECT * FROM ladder ORDER BY rung DESC LIMIT 1")
        return Ladder(rows[0]["level"], rows[0]["holder"], rows[0]["step"]) if rows else None

    def moved_us(self) -> int:
        """When a method last took a rung; 0 if none did."""
        rows = self._store.query("SELECT at_us FROM ladder WHERE record_id != '' ORDER BY rung DESC LIMIT 1")
        return int(rows[0]["at_us"]) if rows else 0

    def rungs(self) -> list[tuple[str, float]]:
        """Record ids and levels of methods that were a new best, oldest first."""
        rows = self._store.query("SELECT record_id, level FROM ladder WHERE record_id != '' ORDER BY rung")
        return [(row["record_id"], row["level"]) for row in rows]

    def consider(
        self, bench: ReferenceScores, code_hash: str, run: ScoredRun, holder: ScoredRun, record_id: str
    ) -> float | None:
        """The new level when `run` is a new best against `holder`, else `None`. In the caller's transaction."""
        ladder = self.state()
        assert ladder is not None, "the board starts with the best baseline"
        higher = ladder.consider(code_hash, run.mean, compare(run.hits, holder.hits, bench.groups).z)
        if higher is None:
            return None
        self._climb(higher, record_id)
        return higher.level

    def _climb(self, ladder: Ladder, record_id: str) -> None:
        with self._store.transaction() as db:
            sql = "INSERT INTO ladder (level, holder, step, record_id, at_us) VALUES (?, ?, ?, ?, ?)"
            at = now_us()
            db.execute(sql, (ladder.level, ladder.holder, ladder.step, record_id, at))
            payload = {"level": ladder.level, "holder": ladder.holder, "step": ladder.step, "record_id": record_id}
            payload["at_us"] = at
            self._journal.append("ladder", payload)


def level_pgr(bench: ReferenceScores, level: float) -> float | None:
    """A level as PGR, to three decimals."""
    value = pgr(level, bench.weak.mean, bench.ceiling.mean)
    return None if value != value else round(value, 3)


def rank_finalists(
    submissions: Iterable[tuple[Submission, Record]], holders: list[str], excluded: set[str]
) -> list[Submission]:
    """Methods in the order in which they may go to SEAL: those that were a new best, latest first, then by DEV answer.

    What was answered decides, never what was measured: an order by exact figures would tell more than the answers do.
    Methods that were only on BOARD and no new best come last, the earliest first. Distinct identities; neither
    baselines under another name (code hashes in `excluded`) nor methods whose every seed failed.
    """
    best: dict[str, tuple[tuple[Any, ...], Submission]] = {}
    for submission, record in submissions:
        identity = submission.method.identity
        if submission.method.code_hash in excluded or len(record.failed_seeds) == record.seeds:
            continue
        held = holders.index(record.record_id) if record.record_id in holders else -1
        answered = submission.answer["accuracy"] if submission.tier == "dev" else -1.0
        rank = (held, answered, -submission.id)
        if identity not in best or rank > best[identity][0]:
            best[identity] = (rank, submission)
    return [submission for _, submission in sorted(best.values(), key=lambda entry: entry[0], reverse=True)]
