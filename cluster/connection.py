"""Joining or starting Ray, with authentication set explicitly.

A driver calls `cluster.authentication.set_authentication` before it imports this module: Ray reads its mode of
authentication when it is imported.

Whose Ray is joined: the one that `RAY_ADDRESS` names; else one that this user started here with `ray start`. A Ray that
a driver started for itself is that driver's alone: it ends with it, so nobody else joins it.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from cluster.errors import AarError
from cluster.names import NAMESPACE

OBJECT_STORE_BYTES = 256 << 20
"""Nothing large travels as a Ray object here; Ray's own default would reserve 30 % of the machine."""
LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket."""
_SOCKET_TAIL = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
"""What Ray puts below its folder at the longest."""
_CURRENT = "ray_current_cluster"
"""The file in which `ray start`, and nothing else, leaves the address of its cluster."""


class ConnectionRefusedError(AarError):
    """Ray can be neither joined nor started; the text names cause and remedy."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How this driver is connected: whether it started Ray itself, and where the dashboard is."""

    started: bool
    dashboard: str
    gpus: int
    cpus: int


def connect(dashboard: bool = True) -> Connection:
    """Join the cluster that `RAY_ADDRESS` or `ray start` stands for, else start one of this driver's own.

    `RAY_ADDRESS=local` starts one in any case. Raises `ConnectionRefusedError`.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        raise AarError("set_authentication() must be called before ray is imported")
    named = os.environ.get("RAY_ADDRESS", "")
    address = started_by_hand() if named in ("", "auto") else named
    if named == "auto" and address is None:
        raise ConnectionRefusedError("RAY_ADDRESS is auto, and no `ray start` runs here; start one, or unset it")
    started = address in (None, "local")
    context = _start(dashboard) if started else _join(str(address))
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return Connection(
        started,
        str(context.dashboard_url or ""),
        int(resources.get("GPU", 0)),
        int(resources.get("CPU", 0)),
    )


def started_by_hand() -> str | None:
    """The address of a cluster of which this user's `ray start` made a node here, or `None`."""
    found: set[str] = set()
    for process in psutil.process_iter():
        try:
            if process.name() != "raylet" or process.uids().real != os.getuid():
                continue
            options = dict(part.split("=", 1) for part in process.cmdline() if "=" in part)
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
            continue
        address, folder = options.get("--gcs-address"), options.get("--temp-dir") or options.get("--temp_dir")
        if address and folder and _current(Path(folder)) == address:
            found.add(address)
    if len(found) > 1:
        known = ", ".join(sorted(found))
        raise ConnectionRefusedError(f"several clusters run here ({known}); say in RAY_ADDRESS which one, or `local`")
    return next(iter(found), None)


def _current(folder: Path) -> str | None:
    try:
        return (folder / _CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _join(address: str) -> Any:
    try:
        return ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ConnectionRefusedError(
            f"the Ray cluster at {address} cannot be joined ({said}); start it, correct RAY_ADDRESS, or set "
            "RAY_ADDRESS=local for a Ray of this campaign's own"
        ) from error


def _start(dashboard: bool) -> Any:
    folder = ray_folder()
    try:
        return ray.init(
            address="local",
            namespace=NAMESPACE,
            include_dashboard=dashboard,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            _temp_dir=str(folder),
        )
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ConnectionRefusedError(
            f"Ray does not start in {folder} ({said}); see that the disk has room, or set RAY_TMPDIR to another folder"
        ) from error


def ray_folder() -> Path:
    """Where a Ray of this driver's own keeps its sockets and logs: below `RAY_TMPDIR`, else the first of the usual
    temporary folders that this user can write to. Raises `ConnectionRefusedError`.
    """
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen:
        folder = Path(chosen).absolute() / "ray"
        why = _unfit(folder)
        if why:
            raise ConnectionRefusedError(f"RAY_TMPDIR: {why}; expected a short path to a folder that you can write to")
        return folder
    own = f"ray-{os.getuid()}"
    candidates = [Path("/tmp/ray"), Path("/tmp") / own, Path(tempfile.gettempdir()) / own, Path("/dev/shm") / own]
    reasons = []
    for folder in candidates:
        why = _unfit(folder)
        if not why:
            return folder
        reasons.append(why)
    raise ConnectionRefusedError(
        f"Ray has no folder ({'; '.join(reasons)}); set RAY_TMPDIR to one that you can write to"
    )


def _unfit(folder: Path) -> str:
    """Why Ray cannot use a folder, or nothing; the folder is made."""
    length = len(os.fsencode(str(folder))) + len(_SOCKET_TAIL)
    if length > LONGEST_SOCKET:
        most = LONGEST_SOCKET - len(_SOCKET_TAIL) - len("/ray")
        return f"{str(folder.parent)!r} has {len(os.fsencode(str(folder.parent)))} bytes, and sockets allow {most}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError as error:
        return f"{str(folder)!r}: {error.strerror}"
    if folder.stat().st_uid not in (0, os.getuid()):
        return f"{str(folder)!r} belongs to another user"
    return ""
