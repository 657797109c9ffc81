"""The Ray shell of a slot: finds its device, grades its sandbox, runs leases."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

import ray

from cluster.config import CampaignConfig, Pool, validate
from cluster.sandbox import Limits, SandboxError, available, confinable, confine, grade, spawn
from cluster.start import UMASK
from gpu_pool.cache import NodeCache, least_free_bytes
from gpu_pool.hardware import cpu_name, gpu_name
from gpu_pool.leases import Lease, LeaseResult, SlotInfo
from gpu_pool.library import materialise
from gpu_pool.sandbox_worker import OUT_BYTES_SLACK, IsolationMode, SandboxWorker
from gpu_pool.scratch import sweep
from gpu_pool.serving.maker import server_maker
from gpu_pool.serving.state import ServerState
from gpu_pool.slot import Slot, SlotSpec, uid_of


@ray.remote(max_restarts=-1, max_task_retries=-1)
class SlotActor:
    """One slot. `info` is answered once the sandbox has been graded and the library worker is warm."""

    def __init__(self, name: str, index: int, config: dict[str, Any]) -> None:
        os.umask(UMASK)  # sandboxes read what is made here as another user
        self._name, self._index = name, index
        campaign = validate(config)
        self._config: CampaignConfig = campaign
        self._pool: Pool = campaign.pool
        self._student_bytes = campaign.runs.student_mb << 20
        self._most_leases = int(1 / min(campaign.runs.pilot_gpus, campaign.runs.full_gpus))
        self._allow_unsandboxed = campaign.allow_unsandboxed
        self._slot: Slot | None = None
        self._info: SlotInfo | None = None
        self._building = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Slot({self._name})"

    async def _ready(self) -> Slot:
        async with self._building:
            if self._slot is None:
                slot = await asyncio.to_thread(self._build)
                await slot.warm()
                await self._check_reuse(slot)
                self._slot = slot
        return self._slot

    async def _check_reuse(self, slot: Slot) -> None:
        """A slot in which something passed between two leases uses no sandbox twice, and its grade is no A."""
        assert self._info is not None
        if not all((await slot.check_reuse()).values()) and self._info.sandbox_grade == "A":
            self._info = replace(self._info, sandbox_grade="B")
            slot.regrade("B")

    def _build(self) -> Slot:
        sweep()
        cache = NodeCache.of(self._pool)
        devices = tuple(int(i) for i in ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
        library = materialise(cache.root)
        isolation, letter, probe = self._isolation(), "C", ""
        if isolation != "none":
            limits, uid = Limits(memory_bytes=self._pool.memory_bytes, processes=256), uid_of("method", self._index)
            worker = SandboxWorker(library, cache.models, limits, uid, devices, isolation=isolation)
            start = spawn if isolation == "namespaces" else confine
            graded = grade(worker.spec, cache.root / "sandbox-control.json", start)
            asyncio.run(worker.close())
            letter, probe = graded.letter, graded.probe_hash
            if letter == "C" and not self._allow_unsandboxed:
                raise SandboxError(f"the sandbox of {self._name} is not safe: {graded.reason}")
        spec = SlotSpec(
            name=self._name,
            threads=self._pool.threads_per_slot,
            memory_bytes=self._pool.memory_bytes,
            reuse=self._pool.sandbox_reuse if isolation == "namespaces" else "never",
            library=library,
            cache_models=cache.models,
            index=self._index,
            gpus=devices,
            gpu_name=gpu_name(0) if devices else f"logical ({cpu_name()})",
            grade=letter,
            probe_hash=probe,
            isolation=isolation,
            file_bytes=max(self._pool.file_bytes, self._student_bytes + OUT_BYTES_SLACK),
            least_free_bytes=least_free_bytes(self._pool),
            most_leases=self._most_leases,
        )
        node = ray.get_runtime_context().get_node_id()
        self._info = SlotInfo(spec.name, node, spec.gpu_name, spec.threads, letter, probe)
        if self._config.serve.model is None:
            return Slot(spec)
        host = str(ray.util.get_node_ip_address()) if self._config.serve.address == "node" else "127.0.0.1"  # type: ignore[no-untyped-call]
        if isolation == "landlock":
            raise SandboxError(f"{self._name}: a model server needs a sandbox with namespaces; give brain.base_url")
        home, uid = cache.root / "serve" / self._name, uid_of("server", self._index)
        return Slot(spec, make_server=server_maker(self._config, host, home, uid, devices, isolation == "namespaces"))

    def _isolation(self) -> IsolationMode:
        """The best kind of sandbox here. Raises `SandboxError` when there is none and none is allowed."""
        found = available()
        if found.ok:
            return "namespaces"
        if confinable():
            return "landlock"
        if not self._allow_unsandboxed:
            raise SandboxError(f"no usable sandbox on the node of {self._name}: {found.reason}; {found.remedy}")
        return "none"

    async def info(self) -> SlotInfo:
        """As `SlotClient.info`."""
        await self._ready()
        assert self._info is not None
        return self._info

    async def run(self, lease: Lease) -> LeaseResult:
        """As `SlotClient.run`."""
        return await (await self._ready()).run(lease)

    async def cancel(self, lease_id: str) -> None:
        """As `SlotClient.cancel`."""
        if self._slot is not None:
            await self._slot.cancel(lease_id)

    async def serving(self, lease_id: str) -> ServerState | None:
        """As `SlotClient.serving`."""
        return self._slot.serving(lease_id) if self._slot is not None else None

    async def close(self) -> None:
        """As `SlotClient.close`."""
        if self._slot is not None:
            await self._slot.close()

    async def status(self) -> dict[str, Any]:
        """As `SlotClient.status`."""
        return self._slot.status() if self._slot is not None else {"name": self._name, "running": [], "spares": 0}
