"""How a slot comes to the model server of a lease."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.config import CampaignConfig
from gpu_pool.leases import Lease
from gpu_pool.serving.command import ServerSpec
from gpu_pool.serving.server import ModelServer


def server_maker(
    config: CampaignConfig, host: str, home: Path, uid: int, gpus: tuple[int, ...], contained: bool
) -> Callable[[Lease], ModelServer]:
    """What builds the server of a lease on a slot; arguments as in ServerSpec."""

    def make(lease: Lease) -> ModelServer:
        spec = ServerSpec(config.serve, config.brain.model, host, home, uid, gpus, lease.threads, contained)
        return ModelServer(spec, Path(lease.directory))

    return make
