"""What the evaluator has computed, durable: each piece once, so that a restart goes on where the last one stopped.

A scored run holds hits, which are as good as truth next to a student's answers; they lie in the store encrypted with
the campaign's secret. Nothing is in the result store before it is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.evaluator.secret import Secret
from actors.evaluator.statistics.variance import Hits
from cluster.journal import Journal
from cluster.objects import sha256_hex
from cluster.store import Store
from cluster.wire import pack, unpack
from gpu_pool.leases import LeaseResult

_LIMIT = 64 << 20
_DDL = "CREATE TABLE IF NOT EXISTS shelf (key TEXT PRIMARY KEY, body BLOB NOT NULL)"
_GRADES = ("A", "B", "C")


@dataclass(frozen=True, slots=True)
class Usage:
    """The leases behind a piece of work, what they used, and the worst sandbox grade among them."""

    lease_ids: tuple[str, ...]
    gpu_ms: int
    sandbox_grade: str
    probe_hash: str

    @classmethod
    def of(cls, results: Sequence[LeaseResult]) -> Usage:
        """The usage of leases that ended."""
        worst = max(results, key=lambda r: _GRADES.index(r.sandbox_grade) if r.sandbox_grade in _GRADES else 3)
        grade = worst.sandbox_grade if worst.sandbox_grade in _GRADES else "C"
        return cls(tuple(r.lease_id for r in results), sum(r.gpu_ms for r in results), grade, worst.probe_hash)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "lease_ids": list(self.lease_ids),
            "gpu_ms": self.gpu_ms,
            "sandbox_grade": self.sandbox_grade,
            "probe_hash": self.probe_hash,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Usage:
        """The inverse of `to_dict`."""
        return cls(**{**data, "lease_ids": tuple(data["lease_ids"])})


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """Hits (S, n) of S students on one split; `failures` maps a seed's index to what went wrong there.

    The row of a failed seed is its teacher's: a failure is scored as no gain, never dropped. `says` is P(label 1) of
    each item (S, n), as it was asked, of methods whose seeds and batches others share; the row of a failed seed means
    nothing.
    """

    hits: Hits = field(repr=False)
    failures: dict[int, str]
    usage: Usage
    says: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def per_seed(self) -> list[float]:
        """Accuracy of each seed."""
        return [float(row.mean()) for row in self.hits]

    @property
    def mean(self) -> float:
        """Accuracy over all seeds."""
        return float(self.hits.mean())


class ResultStore:
    """Pieces of finished work by key."""

    def __init__(self, store: Store, journal: Journal, secret: Secret) -> None:
        self._store = store
        self._journal = journal
        self._secret = secret
        store.schema(_DDL)

    def get(self, key: str) -> dict[str, Any] | None:
        """The piece under `key`, or `None`."""
        rows = self._store.query("SELECT body FROM shelf WHERE key = ?", (key,))
        found: dict[str, Any] | None = unpack(rows[0]["body"], _LIMIT) if rows else None
        return found

    def put(self, key: str, body: dict[str, Any], event: dict[str, Any]) -> None:
        """Keep a piece, with a `work_done` event; a piece that is there already stays."""
        with self._store.transaction() as db:
            if db.execute("SELECT 1 FROM shelf WHERE key = ?", (key,)).fetchone() is None:
                packed = pack(body)
                db.execute("INSERT INTO shelf VALUES (?, ?)", (key, packed))
                self._journal.append("work_done", {"work": key, **event, "body_sha256": sha256_hex(packed)})

    def run(self, key: str) -> ScoredRun | None:
        """The scored run under `key`, or `None`."""
        body = self.get(key)
        if body is None:
            return None
        seeds, items = body["shape"]
        bits = np.frombuffer(self._secret.unseal(key, body["hits"]), dtype=np.uint8)
        hits = np.unpackbits(bits, count=seeds * items).astype(np.bool_).reshape(seeds, items)
        says = None
        if "says" in body:
            values = np.frombuffer(self._secret.unseal(f"says/{key}", body["says"]), dtype=np.float32)
            says = values.reshape(seeds, items)
        return ScoredRun(hits, {int(k): v for k, v in body["failures"].items()}, Usage.from_dict(body["usage"]), says)

    def put_run(self, key: str, run: ScoredRun) -> None:
        """Keep a scored run."""
        body = {
            "shape": list(run.hits.shape),
            "hits": self._secret.seal(key, np.packbits(run.hits).tobytes()),
            "failures": {str(k): v for k, v in run.failures.items()},
            "usage": run.usage.to_dict(),
        }
        if run.says is not None:
            body["says"] = self._secret.seal(f"says/{key}", run.says.astype(np.float32).tobytes())
        self.put(key, body, run.usage.to_dict())
