"""The campaign's own model server: its manager, and the transport that calls it.

Promises:
- The first ask starts a server as a lease of kind `serve`; all researchers share it. It stops by itself when nobody
  used it for `serve.idle_minutes` or when its lease is over; the next ask starts another.
- At most one server at a time: leases have the keys `serve/1`, `serve/2`, ..., and the next one is asked for only
  after the last is known to have ended. A manager that is made anew finds the running server by the same keys.
- However many ask, the scheduler and the slot are asked once in `poll_s` seconds.
- GPU time is paid by `campaign/serving`, so by the campaign and by no researcher: what a call costs cannot be known
  before the server stops, and a researcher's cap must hold before each call.
- A server that failed is not started again at once: asks are refused with the reason for `rest_s` seconds, longer with
  each failure in a row.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actors.gateway.endpoint import Begun, Endpoint
from actors.gateway.requests import Body, Parts
from actors.gateway.retries import AttemptFailedError, Failure
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig
from cluster.errors import AarError, Reason, RefusedError
from cluster.money import Caps
from cluster.names import CAMPAIGN, SERVING_ACCOUNT
from gpu_pool.client import SlotClient
from gpu_pool.leases import Job, LeaseRequest, LeaseResult, Step
from gpu_pool.serving.state import Phase, ServerState

_LONGEST_REST = 10
"""A rest is at most this many times `rest_s`."""


@dataclass(slots=True)
class _Lease:
    request_id: str
    place: tuple[str, str] | None = None
    """Slot and lease id, when it runs."""
    state: ServerState | None = None
    seen: float = -math.inf
    """When `state` was asked for, monotonic seconds."""


class ModelServerManager:
    """Use from one event loop."""

    def __init__(
        self,
        config: CampaignConfig,
        scheduler: SchedulerClient,
        slot: Callable[[str], SlotClient],
        poll_s: float = 0.5,
        rest_s: float = 30.0,
    ) -> None:
        """`slot(name)` reaches a slot; `poll_s`: how often a starting server is looked at, seconds."""
        self._config, self._scheduler, self._slot = config, scheduler, slot
        self._poll_s, self._rest_s = poll_s, rest_s
        self._turn = asyncio.Lock()
        self._lease: _Lease | None = None
        self._ended = 0
        """Leases that have ended, so that the next one has the number after it."""
        self._failures = 0
        self._rest_until = 0.0
        self._fault = ""

    async def ready(self, patience_s: float | None = None) -> ServerState:
        """The server, once it is ready: the Messages API under its `base_url`, with its token as a bearer.

        Raises `RefusedError`: "unavailable" when it failed or is not ready after `patience_s` seconds (default:
        `serve.start_seconds`), and what the scheduler refuses a lease for ("over_budget", ...).
        """
        patience = self._config.serve.start_seconds if patience_s is None else patience_s
        deadline = time.monotonic() + patience
        while True:
            async with self._turn:
                state = await self._current_state()
            if state is not None and state.phase is Phase.READY:
                return state
            if time.monotonic() > deadline:
                stands = "waits for a free slot" if state is None else f"is {state.phase.value} ({state.fault})"
                raise RefusedError(Reason.UNAVAILABLE, f"the model server {stands} after {patience:g} s")
            await asyncio.sleep(self._poll_s)

    async def _current_state(self) -> ServerState | None:
        """The server's state, after starting a lease when there is none; `None` while it waits for a slot."""
        if self._lease is None:
            if time.monotonic() < self._rest_until:
                raise RefusedError(Reason.UNAVAILABLE, f"the model server failed and rests: {self._fault}")
            self._lease = await self._open_lease()
        lease = self._lease
        if time.monotonic() - lease.seen < self._poll_s:
            return lease.state
        lease.state = await self._ask_slot(lease)
        lease.seen = time.monotonic()
        if lease.state is None or lease.state.phase is Phase.ENDED:
            result = await self._scheduler.wait(lease.request_id, 0)
            if result is not None:
                self._note_end(result)
            lease.state = None
        return lease.state

    async def _open_lease(self) -> _Lease:
        """The lease that runs, or a new one: the first key whose request has not ended."""
        await self._scheduler.open_account(f"open/{SERVING_ACCOUNT}", SERVING_ACCOUNT, CAMPAIGN, Caps())
        while True:
            request = serve_request(self._config, self._ended + 1)
            request_id = await self._scheduler.submit(request)
            if await self._scheduler.wait(request_id, 0) is None:
                return _Lease(request_id)
            self._ended += 1

    async def _ask_slot(self, lease: _Lease) -> ServerState | None:
        if lease.place is None:
            for row in (await self._scheduler.status())["running"]:
                if row["request_id"] == lease.request_id:
                    lease.place = (row["slot"], row["lease_id"])
        if lease.place is None:
            return None
        slot, lease_id = lease.place
        state = await self._slot(slot).serving(lease_id)
        if state is None:
            lease.place = None  # ended, or lost and given to another slot
        return state

    def _note_end(self, result: LeaseResult) -> None:
        self._lease = None
        self._ended += 1
        broken = [step.error for step in result.steps if step.status in ("error", "crashed")]
        if result.status == "lost":
            broken.append("its slot was lost")
        if not broken:
            self._failures = 0
            return
        self._failures += 1
        self._fault = broken[0]
        self._rest_until = time.monotonic() + self._rest_s * min(self._failures, _LONGEST_REST)
        raise RefusedError(Reason.UNAVAILABLE, f"the model server failed: {self._fault}", {"fault": self._fault})

    async def close(self) -> None:
        """End the campaign's server, if there is one, whoever had it started; an ask after this starts another."""
        status = await self._scheduler.status()
        for row in (*status["running"], *status["waiting"]):
            if row["account"] == SERVING_ACCOUNT:
                await self._scheduler.cancel(row["key"])
        self._lease = None

    def status(self) -> dict[str, Any]:
        """`{phase, base_url, fault, leases}` for people; no token."""
        state = self._lease.state if self._lease is not None else None
        absent = "none" if self._lease is None else "waiting"
        return {
            "phase": absent if state is None else state.phase.value,
            "base_url": None if state is None else state.base_url,
            "fault": self._fault,
            "leases": self._ended + (self._lease is not None),
        }


def serve_request(config: CampaignConfig, number: int) -> LeaseRequest:
    """The request of the campaign's `number`th server."""
    serve, seconds = config.serve, config.serve.lease_minutes * 60
    return LeaseRequest(
        key=f"serve/{number}",
        account=SERVING_ACCOUNT,
        kind="serve",
        gpus=serve.gpus,
        seconds=seconds,
        job=Job((Step("serve", "serve", {}, {}, {}, seconds),)),
        label=f"serve {config.brain.model}",
        # What one lease of foreign code may have; the slot gives a server what the section `serve` says.
        memory_bytes=config.pool.memory_bytes,
    )


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
        except AarError as error:  # the scheduler or the slot does not answer
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
