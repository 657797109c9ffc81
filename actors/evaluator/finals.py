"""Who goes to SEAL: candidates are audited in rank order, in every domain, until enough have not failed.

Promises: the order stands in the journal before the first audit, and nothing is submitted after it; audits ask about no
sealed item; a method that fails in one domain is out everywhere, and so is what was built on it, so that a cheat takes
nobody's place; finalists, comparisons, cases, and who was dropped and why are written in one transaction. An evaluator
that is killed anywhere goes through the same order again and finds finished audits on the shelf.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.evaluator.audits.auditor import AUDITED, AuditReport
from actors.evaluator.cases import Cases, failures
from actors.evaluator.counted import Payer
from actors.evaluator.shelf import Shelf
from actors.evaluator.source import Method
from actors.evaluator.workshop import Workshop
from cluster.journal import Journal
from cluster.names import SEAL_ACCOUNT
from cluster.store import Store
from forum_actor.provenance import Provenance

FINALIST_PAYER = Payer(SEAL_ACCOUNT, "full")
_ORDER, _FROZEN = "candidates", "finalists"


@dataclass(frozen=True, slots=True)
class Finalist:
    """A method that may go to SEAL, and who submitted it."""

    method: Method
    researcher: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "code_hash": self.method.code_hash,
            "snapshot": self.method.snapshot,
            "name": self.method.name,
            "researcher": self.researcher,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Finalist:
        """The inverse of `to_dict`."""
        return cls(Method(data["snapshot"], data["code_hash"], data["name"]), data["researcher"])


Reports = dict[str, dict[str, AuditReport]]
"""Audits by code hash and domain."""


def declared(finalists: Sequence[Finalist], baselines: Sequence[str], domains: Sequence[str]) -> list[list[str]]:
    """Every comparison that SEAL will test: (code hash, baseline, domain)."""
    return [[f.method.code_hash, name, domain] for domain in domains for f in finalists for name in baselines]


class Finals:
    """The way to SEAL of one campaign, with `places` for finalists."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        shelf: Shelf,
        workshops: Mapping[str, Workshop],
        cases: Cases,
        forum_db: Path,
        baselines: Sequence[str],
        places: int,
    ) -> None:
        self._store, self._journal, self._shelf = store, journal, shelf
        self._workshops, self._cases, self._forum_db = workshops, cases, forum_db
        self._baselines, self._places = sorted(baselines), places

    def order(self) -> list[Finalist] | None:
        """The candidates in their order once nothing more may be submitted, else `None`."""
        return self._finalists(_ORDER)

    def frozen(self) -> list[Finalist] | None:
        """The finalists once they are chosen, else `None`."""
        return self._finalists(_FROZEN)

    def _finalists(self, key: str) -> list[Finalist] | None:
        body = self._shelf.get(key)
        return None if body is None else [Finalist.from_dict(data) for data in body[key]]

    def close(self, rank: Callable[[], list[Finalist]]) -> list[Finalist]:
        """End submissions: the candidates, in the order that `rank` gives now or gave the first time."""
        with self._store.transaction():
            order = self.order()
            if order is None:
                order = rank()
                body = {_ORDER: [candidate.to_dict() for candidate in order], "places": self._places}
                self._journal.append("candidates_ranked", body)
                self._shelf.put(_ORDER, body, {})
        return order

    async def choose(self, order: Sequence[Finalist]) -> list[Finalist]:
        """Audit candidates until all places are taken by some that have not failed; freeze those. Raises as `audit`."""
        frozen = self.frozen()
        if frozen is not None:
            return frozen
        reports: Reports = {}
        while wave := self._next(order, reports):
            done = await asyncio.gather(*(self._audit(candidate.method) for candidate in wave))
            reports |= {candidate.method.code_hash: found for candidate, found in zip(wave, done, strict=True)}
        return self._freeze(order, reports)

    def _next(self, order: Sequence[Finalist], reports: Reports) -> list[Finalist]:
        """The candidates that are certainly needed, and may be audited at the same time."""
        out = self._out(order, reports)
        wanted = self._places - sum(code_hash not in out for code_hash in reports)
        room = min(wanted, AUDITED * self._places - len(reports))
        fresh = [c for c in order if c.method.code_hash not in reports and c.method.code_hash not in out]
        return fresh[: max(0, room)]

    async def _audit(self, method: Method) -> dict[str, AuditReport]:
        work = (workshop.audit(method, FINALIST_PAYER) for workshop in self._workshops.values())
        return dict(zip(self._workshops, await asyncio.gather(*work), strict=True))

    def _out(self, order: Sequence[Finalist], reports: Reports) -> dict[str, str]:
        """Candidates that may not go on, by code hash, with the reason."""
        provenance = Provenance.read(self._forum_db)
        failed = {code_hash: words for code_hash, found in reports.items() if (words := failures(found))}
        out: dict[str, str] = {}
        for cheat in (candidate.method for candidate in order if candidate.method.code_hash in failed):
            descendants = set(provenance.built_on(cheat.snapshot))
            built = (c.method.code_hash for c in order if c.method.snapshot in descendants)
            out |= dict.fromkeys(built, f"built on {cheat.name}, which is disqualified")
        return out | failed

    def _freeze(self, order: Sequence[Finalist], reports: Reports) -> list[Finalist]:
        with self._store.transaction():
            out, provenance = self._out(order, reports), Provenance.read(self._forum_db)
            frozen = [c for c in order if c.method.code_hash in reports and c.method.code_hash not in out]
            dropped = [c for c in order if c.method.code_hash in out]
            body = {
                _FROZEN: [finalist.to_dict() for finalist in frozen],
                "comparisons": declared(frozen, self._baselines, sorted(self._workshops)),
                "audited": [c.method.code_hash for c in order if c.method.code_hash in reports],
                "dropped": [{**c.to_dict(), "reason": out[c.method.code_hash]} for c in dropped],
            }
            self._journal.append("finalists_frozen", body)
            for candidate in dropped:
                found = reports.get(candidate.method.code_hash, {})
                self._cases.open(candidate.method, candidate.researcher, found, provenance)
            self._shelf.put(_FROZEN, body, {})
        return frozen
