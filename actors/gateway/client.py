"""The way to a campaign's gateway: calls to models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.names import actor_name
from cluster.remote import Caller, Remote


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One answer of a model. `message` is the whole message as plain data (content, stop_reason, usage); a tool call
    whose input was no JSON object has the input `{"malformed_json": <its text>}`. `charged` is what its key cost in
    micro-dollars.
    """

    message: dict[str, Any]
    charged: int


class GatewayClient:
    """The gateway's methods, typed."""

    def __init__(self, actor: Caller) -> None:
        self._actor = actor

    @classmethod
    def of(cls, campaign: str) -> GatewayClient:
        """The client of a campaign's gateway."""
        return cls(Remote(actor_name(campaign, "gateway")))

    async def call(self, key: str, researcher: str, request: dict[str, Any]) -> ModelAnswer:
        """One answer of a model, metered on the account of the researcher, or of the campaign (`names.CAMPAIGN`).

        `key` is the idempotency key, such as `03-evolution/17/model/0`: it gives the first answer again, whatever the
        request, and is never paid twice; another caller's key is a `bad_request`. `request` is the JSON body of a
        Messages call without `stream`; `betas` in it names beta features. Raises `RefusedError`; a key that
        was refused may be asked again, except for `lost` and `not_recorded`.
        """
        return await self._actor.call("call", key, researcher, request)  # type: ignore[no-any-return]

    async def status(self) -> dict[str, Any]:
        """Calls, cache, server."""
        return await self._actor.call("status")  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Take no more calls; end the model's server, if the campaign started one."""
        await self._actor.call("close")
