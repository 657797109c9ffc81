"""Who goes to SEAL: candidates are audited in rank order, in every domain, until enough have not failed.

Promises: the order stands in the journal before the first audit, and nothing is submitted after it; audits ask about no
sealed item; a method that fails in one domain is out everywhere, and so is what was built on it, so that a cheat takes
nobody's place; places go to methods that say different things (see `entrants`): of those that say the same, the first
in the order has the place, another only when that one failed and places are left, and what says the same as a baseline
has none; where a pool's own statistics give its truth away and could not be balanced, a method whose answers do not
depend on its teacher's gives way to those whose do; a method that gives no student in a trial is out, whatever ended
it, and stops nobody else; finalists,
comparisons, cases, and who was dropped and why are written in one transaction. An evaluator that is killed anywhere
goes through the same order again and finds finished audits in the result store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.evaluator.audits.auditor import AUDITED, AuditReport
from actors.evaluator.audits.verdicts import GAVE_NOTHING, INFLUENCE
from actors.evaluator.disqualification import Cases, failures
from actors.evaluator.domain_evaluator import DomainEvaluator
from actors.evaluator.entrants import Entrants
from actors.evaluator.result_store import ResultStore
from actors.evaluator.scoring_runs import Payer
from actors.evaluator.source import Method
from cluster.journal import Journal
from cluster.names import SEAL_ACCOUNT
from cluster.store import Store
from forum_actor.provenance import Provenance

FINALIST_PAYER = Payer(SEAL_ACCOUNT, "full")
_ORDER, _FROZEN = "candidates", "finalists"
GIVES_WAY = "its answers do not depend on its teacher's, and the pool's own statistics give the truth away"


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
            **({"entrant": self.method.entrant} if self.method.entrant else {}),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Finalist:
        """The inverse of `to_dict`."""
        method = Method(data["snapshot"], data["code_hash"], data["name"], data.get("entrant", ""))
        return cls(method, data["researcher"])


Reports = dict[str, dict[str, AuditReport]]
"""Audits by code hash and domain."""


def declared(finalists: Sequence[Finalist], baselines: Sequence[str], domains: Sequence[str]) -> list[list[str]]:
    """Every comparison that SEAL will test: (code hash, baseline, domain)."""
    return [[f.method.code_hash, name, domain] for domain in domains for f in finalists for name in baselines]


def _unfinished(found: Mapping[str, AuditReport]) -> str:
    """Which trials gave no student, in words: a method that cannot be audited cannot be a finalist."""
    return "; ".join(
        f"{verdict.audit} on {domain}: {verdict.says}"
        for domain, report in found.items()
        for verdict in report.verdicts
        if verdict.says == GAVE_NOTHING
    )


def _untaught(report: AuditReport) -> bool:
    """Whether nothing shows that a method's answers depend on its teacher's."""
    return any(verdict.audit == INFLUENCE and verdict.outcome == "tag" for verdict in report.verdicts)


class Finals:
    """The way to SEAL of one campaign, with `places` for finalists."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        result_store: ResultStore,
        domain_evaluators: Mapping[str, DomainEvaluator],
        cases: Cases,
        forum_db: Path,
        baselines: Sequence[str],
        places: int,
        entrants: Entrants,
    ) -> None:
        self._store, self._journal, self._results = store, journal, result_store
        self._domain_evaluators, self._cases, self._forum_db = domain_evaluators, cases, forum_db
        self._baselines, self._places, self._entrants = sorted(baselines), places, entrants
        self._first = next(iter(domain_evaluators.values()))

    def order(self) -> list[Finalist] | None:
        """The candidates in their order once nothing more may be submitted, else `None`."""
        return self._finalists(_ORDER)

    def frozen(self) -> list[Finalist] | None:
        """The finalists once they are chosen, else `None`."""
        return self._finalists(_FROZEN)

    def _finalists(self, key: str) -> list[Finalist] | None:
        body = self._results.get(key)
        return None if body is None else [Finalist.from_dict(data) for data in body[key]]

    def close(self, rank: Callable[[], list[Finalist]]) -> list[Finalist]:
        """End submissions: the candidates, in the order that `rank` gives now or gave the first time."""
        with self._store.transaction():
            order = self.order()
            if order is None:
                order = rank()
                body = {_ORDER: [candidate.to_dict() for candidate in order], "places": self._places}
                self._journal.append("candidates_ranked", body)
                self._results.put(_ORDER, body, {})
        return order

    async def choose(self, order: Sequence[Finalist]) -> list[Finalist]:
        """Audit candidates until all places are taken by some that have not failed; freeze those. Raises as `audit`."""
        frozen = self.frozen()
        if frozen is not None:
            return frozen
        reports, screened = Reports(), dict[str, str]()
        while wave := self._next(order, reports, screened):
            fresh = [candidate.method for candidate in wave if candidate.method.code_hash not in screened]
            if fresh:
                screened |= await self._screen(fresh)
                continue
            done = await asyncio.gather(*(self._audit(candidate.method) for candidate in wave))
            reports |= {candidate.method.code_hash: found for candidate, found in zip(wave, done, strict=True)}
        return self._freeze(order, reports, screened)

    def _next(self, order: Sequence[Finalist], reports: Reports, screened: Mapping[str, str]) -> list[Finalist]:
        """The candidates that are certainly needed, and may be audited at the same time: one of each entrant.

        Those that an earlier one speaks for come after all others, and only when that one is out.
        """
        out = self._out(order, reports, screened)
        held = {code_hash for code_hash in reports if code_hash not in out} - self._giving_way(reports)
        wanted = self._places - len(held)
        room = min(wanted, AUDITED * self._places - len(reports))
        leaders = self._entrants.leaders([candidate.method for candidate in order])
        taken = {leaders[code_hash].code_hash for code_hash in reports if code_hash not in out}
        fresh = [c for c in order if c.method.code_hash not in reports and c.method.code_hash not in out]
        fresh.sort(key=lambda c: leaders[c.method.code_hash] is not c.method)
        wave: list[Finalist] = []
        for candidate in fresh:
            leader = leaders[candidate.method.code_hash].code_hash
            if leader not in taken:
                taken.add(leader)
                wave.append(candidate)
        return wave[: max(0, room)]

    async def _screen(self, methods: Sequence[Method]) -> dict[str, str]:
        """What keeps methods from being audited, by code hash, empty where nothing does.

        All are run on BOARD, if they were not, where all baselines were: its items are the ones on which methods are
        compared, and whatever has no student there cannot be told from others.
        """
        alone = [method for method in methods if method.entrant]
        await self._first.runs(alone, "board", FINALIST_PAYER)
        return {method.code_hash: self._objection(method) for method in methods}

    def _objection(self, method: Method) -> str:
        if method.entrant and self._entrants.failed(method, "board"):
            return "none of its seeds gave a student on the items of the board"
        baseline = self._entrants.baseline(method)
        return "" if baseline is None else f"says what the baseline {baseline.name} says"

    async def _audit(self, method: Method) -> dict[str, AuditReport]:
        work = (domain_evaluator.audit(method, FINALIST_PAYER) for domain_evaluator in self._domain_evaluators.values())
        return dict(zip(self._domain_evaluators, await asyncio.gather(*work), strict=True))

    def _out(self, order: Sequence[Finalist], reports: Reports, screened: Mapping[str, str]) -> dict[str, str]:
        """Candidates that may not go on, by code hash, with the reason."""
        objections = {code_hash: words for code_hash, words in screened.items() if words}
        unfinished = {code_hash: words for code_hash, found in reports.items() if (words := _unfinished(found))}
        provenance = Provenance.read(self._forum_db)
        failed = {code_hash: words for code_hash, found in reports.items() if (words := failures(found))}
        out: dict[str, str] = {}
        for cheat in (candidate.method for candidate in order if candidate.method.code_hash in failed):
            descendants = set(provenance.built_on(cheat.snapshot))
            built = (c.method.code_hash for c in order if c.method.snapshot in descendants)
            out |= dict.fromkeys(built, f"built on {cheat.name}, which is disqualified")
        return objections | unfinished | out | failed

    def _giving_way(self, reports: Reports) -> set[str]:
        """Methods, by code hash, of which nothing shows that their gain is not what a pool's statistics give away.

        A vote is right whoever taught it. So is strong elicitation, which only loses its place to others.
        """
        open_pools = {name for name, found in self._domain_evaluators.items() if found.pool_open}
        return {
            code_hash
            for code_hash, found in reports.items()
            if any(_untaught(report) for name, report in found.items() if name in open_pools)
        }

    def _copies(self, order: Sequence[Finalist], frozen: Sequence[Finalist]) -> dict[str, str]:
        """Candidates that say what a finalist says, by code hash, with the reason why they have no place."""
        leaders = self._entrants.leaders([candidate.method for candidate in order])
        names = {leaders[f.method.code_hash].code_hash: f.method.name for f in frozen}
        alike = {c.method.code_hash: leaders[c.method.code_hash].code_hash for c in order if c not in frozen}
        return {
            code_hash: f"says what the finalist {names[leader]} says: they are one entrant"
            for code_hash, leader in alike.items()
            if leader in names
        }

    def _freeze(self, order: Sequence[Finalist], reports: Reports, screened: Mapping[str, str]) -> list[Finalist]:
        with self._store.transaction():
            out, provenance = self._out(order, reports, screened), Provenance.read(self._forum_db)
            audited = [c for c in order if c.method.code_hash in reports and c.method.code_hash not in out]
            last = self._giving_way(reports)
            frozen = sorted(audited, key=lambda c: c.method.code_hash in last)[: self._places]
            frozen.sort(key=order.index)
            out = dict.fromkeys((c.method.code_hash for c in audited if c not in frozen), GIVES_WAY) | out
            out = self._copies(order, frozen) | out
            dropped = [c for c in order if c.method.code_hash in out]
            body = {
                _FROZEN: [finalist.to_dict() for finalist in frozen],
                "comparisons": declared(frozen, self._baselines, sorted(self._domain_evaluators)),
                "audited": [c.method.code_hash for c in order if c.method.code_hash in reports],
                "dropped": [{**c.to_dict(), "reason": out[c.method.code_hash]} for c in dropped],
            }
            self._journal.append("finalists_frozen", body)
            for candidate in dropped:
                found = reports.get(candidate.method.code_hash, {})
                self._cases.open(candidate.method, candidate.researcher, found, provenance)
            self._results.put(_FROZEN, body, {})
        return frozen
