"""Joining or starting Ray, with authentication set explicitly.

A driver calls `cluster.authentication.set_authentication` before it imports this module: Ray reads its mode of
authentication when it is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

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
    """Join the cluster that `RAY_ADDRESS` (or a running local one) names, else start one on this machine."""
    if "RAY_AUTH_MODE" not in os.environ:
        raise AarError("set_authentication() must be called before ray is imported")
    started = False
    try:
        context = ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False)
    except ConnectionError:
        started = True
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
