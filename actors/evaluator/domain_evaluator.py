"""One domain's whole scoring machinery: from pretrained models to the bench that methods are measured on.

Everything is asked for at once and waits only for what it needs: teachers for the weak model; features and ceilings for
the strong one; baselines for both. A campaign that stopped anywhere goes on with what is missing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from actors.evaluator.audits import Auditor, AuditReport, InEarnest, Material, Spread
from actors.evaluator.file_domain import FileDomain
from actors.evaluator.models import Models
from actors.evaluator.practice import Practice
from actors.evaluator.reference_runs import ReferenceRuns, Tools
from actors.evaluator.result_store import ScoredRun
from actors.evaluator.scoring import ReferenceScores
from actors.evaluator.scoring_runs import Payer, ScoringRuns
from actors.evaluator.source import Method
from actors.evaluator.tiers import Tier, ceilings_of, teachers_of
from cluster.config import Scoring
from cluster.objects import ObjectStore

_CEILING_TIERS: dict[Tier, tuple[Tier, ...]] = {"dev": ("dev", "board"), "board": ("dev", "board"), "seal": ("seal",)}
_DESCRIPTION = {
    "pair": "Which of two answers is better? Label 1: the second one.",
    "binary": "Is this work right? Label 1: it is.",
}
_GENERATED = {
    "pair": "Which of two answers helps more: helpful remedies less the others? Label 1: the second one.",
    "binary": "Is more of this work right than wrong? Label 1: it is.",
}


class DomainEvaluator:
    """All scored work of one domain. `baselines` maps names to the methods that others are compared with.

    `practice` is what researchers see where that is another world; without it they see a part of the scored one.
    """

    def __init__(
        self,
        tools: Tools,
        models: Models,
        objects: ObjectStore,
        scoring: Scoring,
        baselines: dict[str, Method],
        usd_per_gpu_hour: int,
        practice: Practice | None = None,
    ) -> None:
        self._t = tools
        self._practice = practice
        self._scoring = scoring
        self._price = usd_per_gpu_hour
        self.data_version = tools.splits.data_version()
        self.models = models
        self.shared = ReferenceRuns(tools, models)
        self.counted = ScoringRuns(tools, self.shared, objects)
        self.baselines = baselines
        self.auditor = Auditor(tools, self.shared, objects, Material(tools, self.shared))

    @property
    def domain(self) -> str:
        """The domain's name."""
        return self._t.domain

    @property
    def pool_open(self) -> bool:
        """Whether the pools' own statistics may give the truth away; see `PoolReport.open`."""
        report = self._t.splits.report
        return report is not None and report.open

    def baselines_of(self, tier: Tier) -> dict[str, Method]:
        """What `tier` compares with: DEV only shows vanilla, the others need all."""
        return {k: m for k, m in self.baselines.items() if tier != "dev" or k == "vanilla"}

    async def ready_models(self) -> None:
        """Models and teachers: what may be done ahead for a domain that only SEAL and its audits visit."""
        models = (self.models.model("strong"), self.models.model("weak"))
        await asyncio.gather(*models, self.teachers("seal"), self.teachers("board"))

    async def teachers(self, tier: Tier) -> ScoredRun:
        """The teachers of a tier."""
        return await self.shared.teachers(tier, teachers_of(tier, self._scoring))

    async def runs(self, methods: Sequence[Method], tier: Tier, payer: Payer) -> list[ScoredRun]:
        """Counted runs of `methods` on `tier`, in their order."""
        weak, _ = await asyncio.gather(self.teachers(tier), self.shared.features())
        numbers = teachers_of(tier, self._scoring)
        return await asyncio.gather(*(self.counted.run(m, tier, numbers, weak, payer) for m in methods))

    async def bench(self, tier: Tier, payer: Payer) -> ReferenceScores:
        """What runs on `tier` are measured against; made if it is not known."""
        methods = list(self.baselines_of(tier).values())
        tiers = _CEILING_TIERS[tier]
        await asyncio.gather(
            self.runs(methods, tier, payer), self.shared.ceilings(ceilings_of(tier), tiers, payer.account)
        )
        return self.known_bench(tier)

    async def audit(self, method: Method, payer: Payer, tiers: Sequence[Tier] = ("board", "dev")) -> AuditReport:
        """Audit a method, with its counted runs on the first of `tiers` that it was run on here, if there is one."""
        weak = await self.teachers("board")
        runs = ((tier, self.counted.found(method.code_hash, tier)) for tier in tiers)
        tier, own = next(((tier, run) for tier, run in runs if run is not None), (None, None))
        bench = None if tier is None else self.known_bench(tier)
        others = [] if bench is None else [run.per_seed for _, run in bench.baselines.values()]
        spread = Spread.of([] if own is None else own.per_seed, others)
        above = None if bench is None or own is None else bench.above_ceiling(own)
        influence = None if bench is None or own is None else bench.influence(own)
        return await self.auditor.audit(method, InEarnest(own, spread, above, influence), weak, payer)

    def known_audit(self, method: Method) -> AuditReport:
        """The report on a method that was audited before."""
        found = self.auditor.known(method.code_hash)
        assert found is not None, "a finalist is audited before it is frozen"
        return found

    def known_bench(self, tier: Tier) -> ReferenceScores:
        """The bench of a tier that was made before."""
        found = self.bench_of(tier)
        assert found is not None, "a tier is prepared before it is used"
        return found

    def bench_of(self, tier: Tier) -> ReferenceScores | None:
        """The reference scores of `tier` if all of them are in the result store."""
        weak = self._t.result_store.run(f"weak/{self.domain}/{tier}")
        ceiling = self.shared.ceiling(tier)
        runs = {k: (m, self.counted.found(m.code_hash, tier)) for k, m in self.baselines_of(tier).items()}
        complete = {k: (m, run) for k, (m, run) in runs.items() if run is not None}
        if weak is None or ceiling is None or len(complete) < len(runs):
            return None
        return ReferenceScores(
            domain=self.domain,
            tier=tier,
            groups=self._t.splits.split(tier).groups,
            canaries=self._t.splits.canaries(tier),
            weak=weak,
            ceiling=ceiling,
            baselines=complete,
            data_version=self.data_version,
            usd_per_gpu_hour=self._price,
            pool=self._t.splits.report,
        )

    async def ready_practice(self) -> None:
        """What `publish` shows, where that is not made for scoring anyway."""
        if self._practice is not None:
            await self._practice.ready()

    def publish(self, public: Path) -> None:
        """Write what researchers may see: pool A, the labels of teacher 0, features, prior, and a description."""
        target = public / self.domain
        if (target / "task.json").exists():
            return
        target.mkdir(parents=True, exist_ok=True)
        for folder in (public, target):
            folder.chmod(0o755)
        practice = Practice(self._t, self.shared) if self._practice is None else self._practice
        shown = practice.items()
        shown.save(target / "items.arrow")
        shared = practice.files()
        for name, source in shared.items():
            save_file({k: v[: len(shown)].copy() for k, v in load_file(source).items()}, target / name)
        for path in target.iterdir():
            path.chmod(0o644)
        partial = target / ".task.partial"
        task = self._task(len(shown), sorted(shared), practice.strong)
        partial.write_text(json.dumps(task, indent=1), encoding="utf-8")
        partial.chmod(0o644)
        partial.rename(target / "task.json")

    def _description(self) -> str:
        domain = self._t.splits.domain
        if not isinstance(domain, FileDomain):
            return _GENERATED[domain.kind]
        return f"{domain.about.description.strip()} {_DESCRIPTION[domain.kind]}".strip()

    def _task(self, n_items: int, files: list[str], strong: Path) -> dict[str, Any]:
        domain, student = self._t.splits.domain, self._t.splits.domain.spec.student
        return {
            "domain": domain.name,
            "kind": domain.kind,
            "n_items": n_items,
            "description": self._description(),
            "pgr": "(transfer - weak) / (ceiling - weak): accuracy of the student between that of its weak teacher "
            "and that of the strong model trained on truth, on items that no method sees",
            "files": ["items.arrow", *files],
            "strong_model": str(strong),
            "disguised": self._t.disguise is not None,
            "protocol": student.model_dump(mode="json", exclude={"members"}),
            "data_version": self.data_version,
        }
