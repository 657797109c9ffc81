"""An anchor: a small file that somebody else keeps, with what the journals of a campaign came to at one moment.

Whoever keeps one can tell later that nothing before that moment was written anew, even by one who holds every file and
the evaluator's key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.observer.finding import Finding
from actors.observer.plain import write_json
from actors.observer.run_data import RunData
from cluster.clock import now_us
from cluster.errors import AarError
from cluster.objects import sha256_hex

KIND = "anchor"


class AnchorError(AarError):
    """A file that is no anchor."""


def anchor_of(run: RunData) -> dict[str, Any]:
    """What an anchor made now says."""
    public = None if run.public_key is None else run.public_key.decode("ascii", "replace").strip()
    return {
        "kind": KIND,
        "campaign": run.name,
        "made_us": now_us(),
        "public_key": public,
        "config_sha256": _sha256(run.paths.config),
        "closing_sha256": _sha256(run.paths.closing),
        "heads": {name: {"seq": data.head_seq, "hash": data.head} for name, data in run.stores.items()},
    }


def write_anchor(run: RunData, path: Path) -> None:
    """Write an anchor of the run as it stands."""
    write_json(path, anchor_of(run))


def read_anchor(path: Path) -> dict[str, Any]:
    """The anchor in a file. Raises `AnchorError`."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AnchorError(f"{path} is no anchor: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != KIND or not isinstance(found.get("heads"), dict):
        raise AnchorError(f"{path} is no anchor: expected a file that verify.py --write-anchor wrote")
    return found


def audit_facts(run: RunData, anchor: dict[str, Any]) -> list[Finding]:
    """Key, configuration and closing are those that the anchor knew."""
    now = anchor_of(run)
    return [
        Finding("anchor", None, f"{name} is {now[name]}, the anchor knew {anchor[name]}")
        for name in ("public_key", "config_sha256", "closing_sha256")
        if anchor.get(name) is not None and anchor[name] != now[name]
    ]


def _sha256(path: Path) -> str | None:
    return sha256_hex(path.read_bytes()) if path.is_file() else None
