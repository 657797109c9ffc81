"""Calls to named actors that survive the actor's restart.

`Remote("quickstart/scheduler").run(request)` is an async call to that method of that actor. While the actor restarts,
the call waits and is made again: it may therefore run more than once, so every mutating method takes an idempotency
key. An `AarError` that the actor raised is raised here as itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.errors import AarError
from cluster.names import NAMESPACE

_RETRY_S = 0.5


class UnreachableError(AarError):
    """An actor that did not come back in time."""


class Remote:
    """A named actor; every attribute is an async method."""

    def __init__(self, actor_name: str, patience_s: float = 120.0) -> None:
        """`patience_s`: how long a call waits for an actor that is absent or restarting."""
        self._name = actor_name
        self._patience_s = patience_s
        self._handle: Any = None

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if method.startswith("__"):
            raise AttributeError(method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(method, args, kwargs)

        return call

    async def _call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                if self._handle is None:
                    self._handle = ray.get_actor(self._name, namespace=NAMESPACE)
                return await getattr(self._handle, method).remote(*args, **kwargs)
            except RayTaskError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, AarError):
                    raise cause from None
                raise
            except (RayActorError, ValueError) as error:
                self._handle = None
                if time.monotonic() > deadline:
                    raise UnreachableError(f"actor {self._name} did not answer {method}: {error}") from error
                await asyncio.sleep(_RETRY_S)
