"""Records: what the evaluator measured, signed. The only source of a number on the leaderboard.

A record is written once, in the same transaction as its `record` event, and never changed. The signature (ed25519) is
over the canonical msgpack of all other fields; the public key is in `evaluator.pub` and in the journal, the private one
in `judge/`. A record holds no truth: accuracies of seeds, no hits, no labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from actors.evaluator.secret import write_private
from cluster.clock import now_us
from cluster.journal import Journal
from cluster.store import Store
from cluster.wire import pack, unpack

_LIMIT = 4 << 20
_DDL = "CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, body BLOB NOT NULL)"


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement of one method on one tier of one domain.

    Accuracies and PGR are fractions, `None` where undefined; intervals are two-sided 95 % over seeds x items.
    `per_seed` are the accuracies of all seeds, failed ones (`failed_seeds`, by index) at their teacher's. `status` is
    the word for people, `standing` what it rests on: word, versus, p (Holm-adjusted), diff (accuracy), interval (of
    diff); `comparisons` are the standings against every baseline.
    `audits` are the verdicts of its audit (see `audits.Verdict`), empty when there was none. `seed_commitment` binds to
    the seeds (see `seeds`). `cost` is in micro-dollars, `gpu_ms` in GPU-milliseconds, `created_us` a Unix time in
    microseconds.
    """

    method: str
    researcher: str
    tier: str
    domain: str
    snapshot: str
    code_hash: str
    accuracy: float
    accuracy_interval: list[float] | None
    pgr: float | None
    interval: list[float] | None
    interval_method: str
    weak_accuracy: float
    ceiling_accuracy: float
    seeds: int
    n: int
    per_seed: list[float]
    failed_seeds: list[int]
    status: str
    standing: dict[str, Any]
    comparisons: list[dict[str, Any]]
    audits: list[dict[str, Any]]
    sandbox_grade: str
    probe_hash: str
    lease_ids: list[str]
    gpu_ms: int
    cost: int
    data_version: str
    seed_commitment: str = ""
    record_id: str = ""
    created_us: int = 0
    signature: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def canonical(value: Any) -> bytes:
    """The one msgpack encoding of plain data: keys of every mapping in order, tuples as lists."""
    return pack(_ordered(value))


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value


def finite(value: float) -> float | None:
    """`value`, or `None` when it is not a finite number."""
    return float(value) if math.isfinite(value) else None


def bounds(low: float, high: float) -> list[float] | None:
    """An interval, or `None` when either end is unknown."""
    return [float(low), float(high)] if math.isfinite(low) and math.isfinite(high) else None


class Signer:
    """The evaluator's key. Its text never shows it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Signer(...)"

    @classmethod
    def load_or_create(cls, path: Path) -> Signer:
        """The key in `path`, mode 0600, made at the first call."""
        if not path.exists():
            write_private(path, Ed25519PrivateKey.generate().private_bytes_raw())
        return cls(Ed25519PrivateKey.from_private_bytes(path.read_bytes()))

    @property
    def public_hex(self) -> str:
        """The public key, 64 hexadecimal digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def statement(self, fields: dict[str, Any]) -> dict[str, Any]:
        """`fields` (plain data without a signature) with their signature, for `verify`."""
        return {**fields, "signature": self._key.sign(canonical(fields)).hex()}

    def sign(self, record: Record) -> Record:
        """`record` with its signature."""
        fields = record.to_dict()
        del fields["signature"]
        return replace(record, signature=self._key.sign(canonical(fields)).hex())


def verify(record: dict[str, Any], public_hex: str) -> bool:
    """Whether a record (as plain data) carries the signature of the key `public_hex`."""
    fields = {key: value for key, value in record.items() if key != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex.strip()))
        key.verify(bytes.fromhex(str(record.get("signature", ""))), canonical(fields))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


class RecordBook:
    """All records of a campaign."""

    def __init__(self, store: Store, journal: Journal, signer: Signer, commit: Callable[[dict[str, Any]], str]) -> None:
        """`commit` gives the commitment to the seeds of a record (as plain data)."""
        self._store = store
        self._journal = journal
        self._signer = signer
        self._commit = commit
        store.schema(_DDL)

    def add(self, key: str, draft: Record) -> Record:
        """Number, sign and keep a record; the same key again gives the first record."""
        with self._store.transaction() as db:
            row = db.execute("SELECT body FROM records WHERE key = ?", (key,)).fetchone()
            if row is not None:
                return Record(**unpack(row["body"], _LIMIT))
            number = int(db.execute("SELECT COUNT(*) FROM records").fetchone()[0]) + 1
            bound = replace(draft, seed_commitment=self.commitment(draft))
            signed = self._signer.sign(replace(bound, record_id=f"rec-{number:06d}", created_us=now_us()))
            db.execute("INSERT INTO records VALUES (?, ?, ?)", (number, key, pack(signed.to_dict())))
            self._journal.append("record", signed.to_dict())
        return signed

    def commitment(self, draft: Record) -> str:
        """What binds a record to its seeds."""
        return self._commit(draft.to_dict())

    def by_key(self, key: str) -> Record | None:
        """The record under `key`, or `None`."""
        rows = self._store.query("SELECT body FROM records WHERE key = ?", (key,))
        return Record(**unpack(rows[0]["body"], _LIMIT)) if rows else None

    def get(self, record_id: str) -> Record | None:
        """The record with this id, or `None`."""
        found = self.some([record_id])
        return found[0] if found else None

    def some(self, record_ids: Sequence[str]) -> list[Record]:
        """The records with these ids that exist, in their order."""
        wanted = {int(i[4:]) for i in record_ids if i.startswith("rec-") and i[4:].isascii() and i[4:].isdigit()}
        return [record for number, record in self._numbered() if number in wanted and record.record_id in record_ids]

    def all(self) -> list[Record]:
        """Every record, oldest first."""
        return [record for _, record in self._numbered()]

    def _numbered(self) -> list[tuple[int, Record]]:
        rows = self._store.query("SELECT number, body FROM records ORDER BY number")
        return [(row["number"], Record(**unpack(row["body"], _LIMIT))) for row in rows]
