"""What a campaign began with: its configuration and the evaluator's public key, pinned before anything else happens.

Promise: a campaign goes on with the very configuration that its first event tells, or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from actors.evaluator.records import Signer
from cluster.config import CampaignConfig, ConfigError
from cluster.journal import read_events
from cluster.names import RunPaths
from cluster.objects import sha256_hex
from cluster.store import open_readonly

FORMAT = 2
"""Of a run directory: from 2 on, what is made is hashed into the journals and a run that has ended is closed."""
SHOWN = 3


def publish_key(paths: RunPaths) -> str:
    """The evaluator's public key, 64 hexadecimal digits, made and written down at the first call."""
    public = Signer.load_or_create(paths.signing_key).public_hex
    paths.public_key.write_text(public + "\n", encoding="ascii")
    return public


def pinned(paths: RunPaths, config: CampaignConfig) -> dict[str, Any]:
    """What the first event of a campaign says."""
    facts: dict[str, Any] = {"config": config.model_dump(mode="json"), "format": FORMAT, "campaign": paths.root.name}
    if paths.config.exists():
        facts["config_sha256"] = sha256_hex(paths.config.read_bytes())
    if paths.public_key.exists():
        facts["public_key"] = paths.public_key.read_text(encoding="ascii").strip()
    return facts


def check_begun(paths: RunPaths, config: CampaignConfig) -> None:
    """Refuse to go on with another configuration than the one that the campaign began with. Raises `ConfigError`."""
    told = _first_event(paths)
    if told is None:
        return
    changes = list(config_changes(told, config))
    if changes:
        more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        raise ConfigError(
            f"{'; '.join(changes[:SHOWN])}{more}: {paths.config} was changed after the campaign began; expected the "
            "configuration that it began with (restore it, or begin another campaign with the new one)"
        )


def _first_event(paths: RunPaths) -> dict[str, Any] | None:
    if not paths.director_db.exists():
        return None
    db = open_readonly(paths.director_db)
    try:
        return next((event.payload for event in read_events(db, kind="campaign_started")), None)
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{paths.director_db} cannot be read: {error}") from error
    finally:
        db.close()


def config_changes(told: dict[str, Any], config: CampaignConfig) -> Iterator[str]:
    """Fields of `config` that differ from those that the first event tells, as `field: now (was before)`.

    What an older version did not know counts as its default; a configuration that this version cannot read is not
    compared.
    """
    try:
        before = CampaignConfig.model_validate(told.get("config")).model_dump(mode="json")
    except ValidationError:
        return
    yield from _differing("", before, config.model_dump(mode="json"))


def _differing(name: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differing(f"{name}.{key}" if name else key, before.get(key), now.get(key))
    elif before != now:
        yield f"{name} is {_short(now)}, it was {_short(before)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
