"""The Ray shell of the gateway. State is in `runs/<campaign>/gateway.db`; the key is in this process's memory alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.gateway.client import ModelAnswer
from actors.gateway.endpoint import Endpoint, Transport
from actors.gateway.gateway import Gateway
from actors.gateway.keys import key_of, shut_memory
from actors.gateway.model_server import ModelServerManager, Served
from actors.gateway.replayer import Replayer
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig, validate
from cluster.metrics import Metrics
from cluster.names import RunPaths, actor_name
from cluster.store import Store
from gpu_pool.client import SlotClient


@ray.remote(max_restarts=-1, max_task_retries=-1)
class GatewayActor:
    """The one caller of models; every answer is plain data."""

    def __init__(self, run_dir: str, config: dict[str, Any]) -> None:
        shut_memory()
        paths, campaign = RunPaths(Path(run_dir)), validate(config)
        name = paths.root.name
        self._name = f"{name}/gateway"
        ledger = SchedulerClient.of(name)
        transport = make_transport(campaign, paths.root, ledger)
        self._plain = Gateway(Store(paths.gateway_db), campaign, ledger, transport, Metrics(name))

    def __repr__(self) -> str:
        return self._name

    async def call(self, key: str, researcher: str, request: dict[str, Any]) -> ModelAnswer:
        """As `GatewayClient.call`."""
        return await self._plain.call(key, researcher, request)

    async def status(self) -> dict[str, Any]:
        """As `Gateway.status`."""
        return self._plain.status()

    async def close(self) -> None:
        """As `Gateway.close`."""
        await self._plain.close()


def make_transport(config: CampaignConfig, run_dir: Path, scheduler: SchedulerClient) -> Transport:
    """The campaign's source of answers."""
    if config.brain.kind == "replay":
        return Replayer(Path(config.brain.replay_of or ""))
    if config.brain.served:
        manager = ModelServerManager(
            config, scheduler, lambda slot: SlotClient.of(actor_name(run_dir.name, slot), patience_s=10)
        )
        return Served(config, manager)
    return Endpoint(config.brain, config.gateway, lambda: key_of(config.brain, run_dir))
