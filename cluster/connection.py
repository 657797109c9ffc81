"""Joining or starting Ray, with authentication set explicitly.

A driver calls `cluster.authentication.set_authentication` before it imports this module: Ray reads its mode of
authentication when it is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import ray

from cluster.errors import AarError
from cluster.names import NAMESPACE

OBJECT_STORE_BYTES = 256 << 20
"""Nothing large travels as a Ray object here; Ray's own default would reserve 30 % of the machine."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How this driver is connected: whether it started Ray itself, and where the dashboard is."""

    started: bool
    dashboard: str
    gpus: int
    cpus: int


def connect(dashboard: bool = True) -> Connection:
    """Join the cluster that `RAY_ADDRESS` (or a running local one) names, else start one on this machine.

    `RAY_ADDRESS=local` starts one of this driver's own, whatever runs beside it.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        raise AarError("set_authentication() must be called before ray is imported")
    context = None if os.environ.get("RAY_ADDRESS") == "local" else _join()
    started = context is None
    if context is None:
        context = ray.init(
            address="local",
            namespace=NAMESPACE,
            include_dashboard=dashboard,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
        )
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return Connection(
        started,
        str(context.dashboard_url or ""),
        int(resources.get("GPU", 0)),
        int(resources.get("CPU", 0)),
    )


def _join() -> Any:
    """The context of a cluster that runs already, or `None`."""
    try:
        return ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False)
    except ConnectionError:
        return None
