"""The gateway's way to the campaign's own model server: the vendor's client at whatever address its manager gives."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.gateway.endpoint import Endpoint
from actors.gateway.recorder import Parts
from actors.gateway.request import Body
from actors.gateway.retry import AttemptFailedError, Failure
from actors.gateway.transport import Begun
from actors.serving.manager import ModelServerManager
from cluster.config import CampaignConfig
from cluster.errors import AarError, Reason, RefusedError
from gpu_pool.serving.state import ServerState


class Served:
    """A `Transport`. A call waits while the server starts; what fails is tried again by the gateway."""

    def __init__(self, config: CampaignConfig, manager: ModelServerManager) -> None:
        self._config, self._manager = config, manager
        self._reached = ("", "")
        """Address and token that `_client` is for."""
        self._client: Endpoint | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, key: str, body: Body, parts: Parts, begun: Begun) -> dict[str, Any]:
        """As `Transport.send`."""
        try:
            server = await self._manager.ready()
        except RefusedError as refused:
            if refused.reason is Reason.OVER_BUDGET:
                raise AttemptFailedError(Failure(Reason.OVER_BUDGET, refused.message, detail=refused.detail)) from None
            raise AttemptFailedError(Failure(Reason.UNAVAILABLE, refused.message, again=True)) from None
        except AarError as error:  # an office does not answer
            raise AttemptFailedError(Failure(Reason.UNAVAILABLE, str(error), again=True)) from error
        return await self._client_of(server).send(key, body, parts, begun)

    def _client_of(self, server: ServerState) -> Endpoint:
        place = (server.base_url, server.token)
        if self._client is None or place != self._reached:
            if self._client is not None:  # its server is gone, and so is whoever waits for it
                closing = asyncio.ensure_future(self._client.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            brain = self._config.brain.model_copy(update={"base_url": server.base_url})
            self._reached, self._client = place, Endpoint(brain, self._config.gateway, lambda: server.token)
        return self._client

    def status(self) -> dict[str, Any]:
        """As `Transport.status`: the `server`."""
        return {"server": self._manager.status()}

    async def close(self) -> None:
        """End the server and let connections go."""
        try:
            await self._manager.close()
        finally:
            if self._client is not None:
                await self._client.close()
