"""Joining or starting Ray, with authentication set explicitly.

Ray 2.60 chooses differently in `ray.init`, `ray start` and `ray job` when nothing is said (a local `ray.init` turns
token authentication on, the others only when a token exists already). Here `RAY_AUTH_MODE` is always set before Ray is
touched: `token`, unless the user chose otherwise. The token file is made with mode 0600.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import ray

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


def set_authentication() -> None:
    """Choose token authentication in this process's environment and make a token if none is there."""
    if os.environ.setdefault("RAY_AUTH_MODE", "token") != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
        return
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_hex(32))


def connect(dashboard: bool = True) -> Connection:
    """Join the cluster that `RAY_ADDRESS` (or a running local one) names, else start one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    set_authentication()
    # An actor without GPUs must not see those of its node (Ray 2.60 hides them only when told to).
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
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
