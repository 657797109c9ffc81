"""Answers of an earlier campaign, by idempotency key, without a network.

A campaign that is run again asks under the same keys. Where its request is the recorded one, the answer is exactly what
the model said to it; where it differs (times and scores do) the recorded answer is given all the same and counted as
a divergence. A key that was never answered is refused, for good: "not_recorded".

Requests and dollars are those of the recorded campaign only if kind of brain and prices are: `as_recorded` takes them
from its configuration.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from actors.gateway import recorder
from actors.gateway.endpoint import Begun
from actors.gateway.recorder import RecordError
from actors.gateway.requests import Body, Parts
from actors.gateway.retries import AttemptFailedError, Failure
from cluster.config import CampaignConfig, ConfigError, load_stored
from cluster.config.prices import FREE, Price
from cluster.errors import Reason
from cluster.names import RunPaths
from cluster.store import open_readonly


class Replayer:
    """A transport that reads another run directory's gateway store."""

    def __init__(self, run_dir: Path) -> None:
        """Raises `ConfigError` when there is no recording."""
        self._db = open_recording(run_dir)
        self.exact = 0
        self.diverged = 0

    async def send(self, key: str, body: Body, parts: Parts, begun: Begun) -> dict[str, Any]:
        """As `Transport.send`."""
        try:
            known, message = recorder.names(self._db, key), recorder.load_message(self._db, key)
        except (RecordError, sqlite3.DatabaseError) as error:
            raise AttemptFailedError(Failure(Reason.UNAVAILABLE, f"the recording cannot be read: {error}")) from error
        if known is None or message is None:
            raise AttemptFailedError(Failure(Reason.NOT_RECORDED, f"the recording holds no answer to {key}"))
        if known[0] == parts.request:
            self.exact += 1
        else:
            self.diverged += 1
        begun(message.get("usage") or {})
        return message

    def status(self) -> dict[str, Any]:
        """`replay`: calls whose request was the recorded one, and those whose request was another."""
        return {"replay": {"exact": self.exact, "diverged": self.diverged}}

    async def close(self) -> None:
        """As `Transport.close`."""
        self._db.close()


def as_recorded(config: CampaignConfig) -> CampaignConfig:
    """A configuration that replays, with kind of brain and prices of the campaign that it replays; any other as it is.

    Raises `ConfigError` when that campaign cannot be read.
    """
    if config.brain.kind != "replay" or config.brain.replay_of is None:
        return config
    path = RunPaths(Path(config.brain.replay_of)).config
    try:
        recorded = load_stored(path)
    except ConfigError as error:
        raise ConfigError(f"brain.replay_of: the configuration of the recorded campaign: {error}") from error
    kind = recorded.brain.recorded_kind or recorded.brain.kind
    if kind not in ("claude", "local"):
        raise ConfigError(f"brain.replay_of: a campaign of kind {kind!r} called no model; expected one that did")
    free = {recorded.brain.model: Price.model_validate(FREE)} if recorded.brain.plain else {}
    prices = {**config.gateway.prices, **free, **recorded.gateway.prices}
    brain = config.brain.model_copy(update={"recorded_kind": kind})
    return config.model_copy(update={"brain": brain, "gateway": config.gateway.model_copy(update={"prices": prices})})


def open_recording(run_dir: Path) -> sqlite3.Connection:
    """The recording in a run directory, read-only. Raises `ConfigError`."""
    path = RunPaths(run_dir).gateway_db
    try:
        db = open_readonly(path)
        db.execute("SELECT COUNT(*) FROM exchanges").fetchone()
    except (FileNotFoundError, sqlite3.DatabaseError) as error:
        raise ConfigError(
            f"brain.replay_of: {str(run_dir)!r} holds no recorded calls ({error}); "
            f"expected the directory of a campaign whose brain called a model"
        ) from error
    return db
