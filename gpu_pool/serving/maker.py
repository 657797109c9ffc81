"""How a slot comes to the model server of a lease."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.config import CampaignConfig
from gpu_pool.leases import Lease
from gpu_pool.serving.command import ServerSpec
from gpu_pool.serving.server import ModelServer

SERVER_UIDS = 500
"""Added to the uid of the slot's sandboxes, so that neither can touch the other's processes."""


def server_maker(
    config: CampaignConfig, host: str, home: Path, uid: int, gpus: tuple[int, ...], contained: bool
) -> Callable[[Lease], ModelServer]:
    """What builds the server of a lease on a slot; `uid` is that of the slot's sandboxes, the rest as in ServerSpec."""

    def make(lease: Lease) -> ModelServer:
        spec = ServerSpec(
            config.serve, config.brain.model, host, home, uid + SERVER_UIDS, gpus, lease.threads, contained
        )
        return ModelServer(spec, Path(lease.directory))

    return make
