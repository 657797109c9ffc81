"""The book of submissions: written before anything runs, so that every attempt counts, failed ones too.

Promises: one open or answered submission per (tier, domain, entrant); a copy of a method gets its stored answer; the
campaign's limit per tier is checked and taken in one transaction, before the run.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from actors.evaluator.source import Method
from actors.evaluator.tiers import Tier
from cluster.clock import now_us
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.journal import Journal
from cluster.objects import sha256_hex
from cluster.store import Store
from cluster.wire import pack, unpack

_DDL = """
CREATE TABLE IF NOT EXISTS submissions (
    id INTEGER PRIMARY KEY,
    key TEXT UNIQUE NOT NULL,
    tier TEXT NOT NULL,
    domain TEXT NOT NULL,
    code_hash TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    name TEXT NOT NULL,
    researcher TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'charged', 'answered', 'refused')),
    record_id TEXT NOT NULL DEFAULT '',
    answer BLOB,
    at_us INTEGER NOT NULL,
    entrant TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS one_submission
    ON submissions (tier, domain, code_hash) WHERE state != 'refused';
"""
_ENTRANT = "ALTER TABLE submissions ADD COLUMN entrant TEXT NOT NULL DEFAULT ''"


@dataclass(frozen=True, slots=True)
class Submission:
    """A row of the book: open (written), charged (paid for), then answered or refused.

    `answer` is the answer when answered, the refusal (reason, message, detail) when refused.
    """

    id: int
    key: str
    tier: Tier
    domain: str
    method: Method
    researcher: str
    state: str
    record_id: str
    answer: dict[str, Any]

    def refusal(self) -> RefusedError:
        """The error with which it was refused."""
        return RefusedError(Reason(self.answer["reason"]), self.answer["message"], self.answer["detail"])


class Submissions:
    """All submissions of a campaign."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        store.schema(_DDL)
        if "entrant" not in {row["name"] for row in store.query("PRAGMA table_info(submissions)")}:
            store.schema(_ENTRANT)  # a campaign that began before copies were told

    def by_key(self, key: str) -> Submission | None:
        """The submission that a caller's key stands for."""
        return self._one("key = ?", key)

    def of_method(self, tier: Tier, domain: str, method: Method) -> Submission | None:
        """The open or answered submission of a method, or of a copy of it."""
        alike = "(code_hash = ? OR (entrant != '' AND entrant = ?))"
        where = f"state != 'refused' AND tier = ? AND domain = ? AND {alike} ORDER BY id"
        return self._one(where, tier, domain, method.code_hash, method.entrant)

    def open_ones(self) -> list[Submission]:
        """Submissions without an answer, oldest first."""
        sql = "SELECT * FROM submissions WHERE state IN ('open', 'charged') ORDER BY id"
        return [_row(row) for row in self._store.query(sql)]

    def answered(self, tier: Tier) -> list[Submission]:
        """Answered submissions of a tier, oldest first."""
        sql = "SELECT * FROM submissions WHERE state = 'answered' AND tier = ? ORDER BY id"
        return [_row(r) for r in self._store.query(sql, (tier,))]

    def used(self, tier: Tier) -> int:
        """How many answers of a tier the campaign has used up, open ones included."""
        sql = "SELECT COUNT(*) AS used FROM submissions WHERE tier = ? AND state != 'refused'"
        return int(self._store.query(sql, (tier,))[0]["used"])

    def begin(self, key: str, tier: Tier, domain: str, method: Method, researcher: str, limit: int) -> Submission:
        """Open a submission, counted from now on. Raises `RefusedError` (`tier_exhausted`)."""
        with self._store.transaction() as db:
            known = self.of_method(tier, domain, method)
            if known is not None:
                return known
            used = self.used(tier)
            if used >= limit:
                detail = {"tier": tier, "used": used, "limit": limit}
                raise RefusedError(
                    Reason.TIER_EXHAUSTED,
                    f"all {limit} {tier} answers of this campaign are used",
                    detail,
                    LimitExceeded("answers", tier, limit, used + 1, "evaluator"),
                )
            what = (method.code_hash, method.snapshot, method.name, method.entrant)
            row = (key, tier, domain, *what, researcher, now_us())
            columns = "key, tier, domain, code_hash, snapshot, name, entrant, researcher, at_us, state"
            number = db.execute(f"INSERT INTO submissions ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')", row)
            self._journal.append("submission", {**self._event(number.lastrowid or 0), "used": used + 1, "limit": limit})
            return self._get(number.lastrowid or 0)

    def reject(self, key: str, researcher: str, refusal: RefusedError) -> None:
        """Journal what was submitted and is no method, once per caller and key."""
        event = {"key": key, "researcher": researcher, "reason": refusal.reason, "message": refusal.message}
        self._store.once(
            f"rejected/{researcher}/{key}", lambda _: self._journal.append("submission_rejected", event).seq
        )

    def charged(self, submission: Submission) -> None:
        """Note that the account has paid for it."""
        with self._store.transaction() as db:
            db.execute("UPDATE submissions SET state = 'charged' WHERE id = ? AND state = 'open'", (submission.id,))

    def refuse(self, submission: Submission, error: RefusedError) -> None:
        """End a submission without a run; it counts no longer."""
        body = {"reason": error.reason, "message": error.message, "detail": error.detail}
        with self._store.transaction():
            self._end(submission.id, "refused", body, "")
            self._journal.append("submission_refused", {**self._event(submission.id), **body})

    def answer(self, submission: Submission, answer: dict[str, Any], record_id: str) -> None:
        """End a submission with its answer, in the caller's transaction if one is open."""
        with self._store.transaction():
            self._end(submission.id, "answered", answer, record_id)
            told = {"record_id": record_id, "answer_sha256": sha256_hex(pack(answer))}
            self._journal.append("submission_answered", {**self._event(submission.id), **told})

    def _end(self, number: int, state: str, body: dict[str, Any], record_id: str) -> None:
        with self._store.transaction() as db:
            sql = "UPDATE submissions SET state = ?, answer = ?, record_id = ? WHERE id = ? AND answer IS NULL"
            db.execute(sql, (state, pack(body), record_id, number))

    def _event(self, number: int) -> dict[str, Any]:
        found = self._get(number)
        return {
            "submission": found.id,
            "key": found.key,
            "tier": found.tier,
            "domain": found.domain,
            "researcher": found.researcher,
            "name": found.method.name,
            "snapshot": found.method.snapshot,
            "code_hash": found.method.code_hash,
            **({"entrant": found.method.entrant} if found.method.entrant else {}),
        }

    def _get(self, number: int) -> Submission:
        return _row(self._store.query("SELECT * FROM submissions WHERE id = ?", (number,))[0])

    def _one(self, where: str, *params: str) -> Submission | None:
        rows = self._store.query(f"SELECT * FROM submissions WHERE {where}", params)
        return _row(rows[0]) if rows else None


def _row(row: sqlite3.Row) -> Submission:
    return Submission(
        id=row["id"],
        key=row["key"],
        tier=row["tier"],
        domain=row["domain"],
        method=Method(row["snapshot"], row["code_hash"], row["name"], row["entrant"]),
        researcher=row["researcher"],
        state=row["state"],
        record_id=row["record_id"],
        answer={} if row["answer"] is None else unpack(row["answer"]),
    )
