"""The gateway's way to the campaign's own model server: the vendor's client at whatever address the desk gives."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.gateway.endpoint import Endpoint as Client
from actors.gateway.recorder import Parts
from actors.gateway.request import Body
from actors.gateway.retry import AttemptFailedError, Failure
from actors.gateway.transport import Begun
from actors.serving.desk import Endpoint, ServeDesk
from cluster.config import CampaignConfig
from cluster.errors import RefusedError


class Served:
    """A `Transport`. A call waits while the server starts; what fails is tried again by the gateway."""

    def __init__(self, config: CampaignConfig, desk: ServeDesk) -> None:
        self._config, self._desk = config, desk
        self._endpoint: Endpoint | None = None
        self._client: Client | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, key: str, body: Body, parts: Parts, begun: Begun) -> dict[str, Any]:
        """As `Transport.send`; the researcher who asks is the first part of `key`."""
        try:
            endpoint = await self._desk.endpoint(key.partition("/")[0])
        except RefusedError as refused:
            if refused.reason == "over_budget":
                raise AttemptFailedError(Failure("over_budget", refused.message)) from None
            raise AttemptFailedError(Failure("unavailable", refused.message, again=True)) from None
        return await self._client_of(endpoint).send(key, body, parts, begun)

    def _client_of(self, endpoint: Endpoint) -> Client:
        if self._client is None or endpoint != self._endpoint:
            if self._client is not None:  # its server is gone, and so is whoever waits for it
                closing = asyncio.ensure_future(self._client.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            brain = self._config.brain.model_copy(update={"base_url": endpoint.base_url})
            self._endpoint, self._client = endpoint, Client(brain, self._config.gateway, endpoint.token)
        return self._client

    async def close(self) -> None:
        """End the server and let connections go."""
        await self._desk.close()
        if self._client is not None:
            await self._client.close()
