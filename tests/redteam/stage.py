"""A stage: the real judge, scheduler, slots and sandboxes of a campaign in one process, without Ray.

What Ray adds is processes and names. Everything that an attack could attack is the product's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from actors.evaluator.evaluator import Evaluator
from actors.scheduler.client import SchedulerClient
from actors.scheduler.scheduler import Scheduler, SchedulerConfig
from cluster.config import CampaignConfig
from cluster.journal import Journal
from cluster.money import Caps, usd_from_decimal
from cluster.names import RunPaths
from cluster.objects import ObjectStore
from cluster.remote import Local
from cluster.sandbox import Grade, Limits, grade
from cluster.store import Store
from gpu_pool.cache import NodeCache
from gpu_pool.client import SlotClient
from gpu_pool.leases import SlotInfo
from gpu_pool.library import materialise
from gpu_pool.sandbox_worker import SandboxWorker
from gpu_pool.slot import Slot, SlotSpec, uid_of
from gpu_pool.weak_to_strong.domains import Domain

FIRST_INDEX = 150
"""Slots of a stage take uids that a campaign on the same machine does not use."""


class Stage:
    """One campaign's evaluation. Use inside one event loop: `open`, then the judge, then `close`."""

    def __init__(self, root: Path, config: CampaignConfig, domain: Callable[[str], Domain], slots: int = 1) -> None:
        self.config = config
        self.paths = RunPaths(root)
        root.mkdir(parents=True, exist_ok=True)
        self.objects = ObjectStore(self.paths.objects)
        self._domain = domain
        self.grade: Grade
        self.slots = [self._slot(index) for index in range(slots)]
        settings = SchedulerConfig(
            usd_from_decimal(config.pool.usd_per_gpu_hour), int(config.pool.memory_gb * (1 << 30))
        )
        ends = {f"slot-{n}": SlotClient(Local(slot)) for n, slot in enumerate(self.slots)}
        self.scheduler = Scheduler(Store(self.paths.scheduler_db), ends.__getitem__, settings, self.paths.leases)
        self.client = SchedulerClient(Local(self.scheduler))
        self._store = Store(self.paths.evaluator_db)
        self.journal = Journal(self._store)
        self.evaluator = Evaluator(self.paths, config, self.client, self._store, self.journal, domain)

    def _slot(self, number: int) -> Slot:
        pool, cache = self.config.pool, NodeCache.of(self.config.pool)
        library, memory = materialise(cache.root), int(pool.memory_gb * (1 << 30))
        index = FIRST_INDEX + number
        if number == 0:
            worker = SandboxWorker(
                library, cache.models, Limits(memory_bytes=memory, processes=256), uid_of("method", index)
            )
            self.grade = grade(worker.spec, cache.root / "sandbox-control.json")
            asyncio.run(worker.close())
        spec = SlotSpec(
            name=f"slot-{number}",
            threads=1,
            memory_bytes=memory,
            reuse=pool.sandbox_reuse,
            library=library,
            cache_models=cache.models,
            index=index,
            gpus=(),
            gpu_name="logical",
            grade=self.grade.letter,
            probe_hash=self.grade.probe_hash,
        )
        return Slot(spec)

    async def open(self, researchers: dict[str, int]) -> None:
        """Accounts (answers by researcher) and slots."""
        await self.scheduler.start()
        opening: list[tuple[str, str | None, Caps]] = [("campaign", None, Caps())]
        opening += [(f"campaign/{name}", "campaign", Caps()) for name in ("baselines", "score", "seal")]
        for name, answers in researchers.items():
            account = f"campaign/researcher/{name}"
            opening += [(account, "campaign", Caps()), (f"{account}/evaluations", account, Caps(answers=answers))]
        for account, parent, caps in opening:
            await self.client.open_account(f"open/{account}", account, parent, caps)
        for number, slot in enumerate(self.slots):
            await slot.warm()
            info = SlotInfo(f"slot-{number}", "node", "logical", 1, self.grade.letter, self.grade.probe_hash)
            await self.scheduler.register_slot(info, info.name)

    async def close(self) -> None:
        """End every sandbox and close the books."""
        await self.scheduler.close()
        for slot in self.slots:
            await slot.close()
        self.scheduler.store.close()
        self._store.close()

    def snapshot(self, source: str) -> str:
        """A method in the object store."""
        return self.objects.put_tree({"method.py": source.encode()})
