"""Calls to named actors that survive the actor's restart.

Each service has a typed client beside its actor; a client makes its calls through a `Caller`: `Remote` for an actor,
`Local` for a plain object in a test or a script without Ray.

While an actor restarts, a call waits and is made again: it may therefore run more than once, so every mutating method
takes an idempotency key. An `AarError` that the actor raised is raised here as itself. While the actor's storage takes
nothing the call waits, too, without end: the campaign is paused then, and goes on when there is room.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from typing import Any, Protocol

from cluster.errors import AarError
from cluster.names import NAMESPACE
from cluster.storage import StorageError, storage_fault

log = logging.getLogger(__name__)
_RETRY_S = 0.5
_STORAGE_RETRY_S = 1.0


class UnreachableError(AarError):
    """An actor that did not come back in time."""


class Caller(Protocol):
    """A way to reach one service."""

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The result of the service's method of that name."""


class Local:
    """A plain object in the place of an actor; its methods may be async or not."""

    def __init__(self, service: object) -> None:
        self._service = service

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """As `Caller.call`."""
        result = getattr(self._service, method)(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result


class Remote:
    """A named actor."""

    def __init__(self, actor_name: str, patience_s: float = 120.0, *, awaits_room: bool = True) -> None:
        """`patience_s`: how long a call waits for an actor that is absent or restarting.

        `awaits_room`: wait while its storage takes nothing; otherwise that is a `StorageError`.
        """
        self._name = actor_name
        self._patience_s, self._awaits_room = patience_s, awaits_room
        self._handle: Any = None

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """As `Caller.call`. Raises `UnreachableError`, what the actor raised, and `StorageError` where it may."""
        import ray  # whoever only names a client's type does without
        from ray.exceptions import RayActorError, RayTaskError

        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                if self._handle is None:
                    self._handle = ray.get_actor(self._name, namespace=NAMESPACE)
                return await getattr(self._handle, method).remote(*args, **kwargs)
            except RayTaskError as error:
                cause = getattr(error, "cause", None)
                fault = storage_fault(cause)
                if fault is None:
                    if isinstance(cause, AarError):
                        raise cause from None
                    raise
                if not self._awaits_room:
                    raise StorageError(fault) from None
                log.warning("%s of %s waits: %s", method, self._name, fault)
                await asyncio.sleep(_STORAGE_RETRY_S)
                deadline = time.monotonic() + self._patience_s
            except (RayActorError, ValueError) as error:
                self._handle = None
                if time.monotonic() > deadline:
                    raise UnreachableError(f"actor {self._name} did not answer {method}: {error}") from error
                await asyncio.sleep(_RETRY_S)
