"""A run directory as data: every journal with the state of its chain, the configuration, the public task files.

Promises: reading changes nothing and needs no running campaign; what is missing or damaged becomes a warning and an
empty part, never an exception, so that a report of a killed or unfinished campaign can be made. A journal is read up to
its first broken event and not beyond.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.config import CampaignConfig, ConfigError, load_config
from cluster.errors import AarError
from cluster.journal import GENESIS, BrokenEvent, Event, read_events, verify_chain
from cluster.names import RunPaths
from cluster.store import open_readonly
from cluster.wire import WireError

OFFICES = ("director", "scheduler", "forum", "evaluator")
_READ_ORDER = {"director": 0, "forum": 2, "evaluator": 3, "scheduler": 4, "gateway": 5}
"""What refers to others is read before them (researchers come second), so that a running campaign has no loose end."""


class NoRunError(AarError):
    """There is no campaign in this directory."""


@dataclass(frozen=True, slots=True)
class StoreData:
    """One journal: its events up to the first broken one, its head, and where it breaks (`None`: it holds)."""

    name: str
    events: tuple[Event, ...]
    head_seq: int
    head: str
    broken: BrokenEvent | None

    def of(self, *kinds: str) -> list[Event]:
        """Events of these kinds, oldest first."""
        return [event for event in self.events if event.kind in kinds]


@dataclass(frozen=True, slots=True)
class RunData:
    """All that the observer knows of a campaign. `stores` holds those that exist, by the owner's name."""

    paths: RunPaths
    config: CampaignConfig | None
    stores: dict[str, StoreData]
    tasks: dict[str, dict[str, Any]]
    public_key: bytes | None
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The campaign's name: the one that it began with, else that of its directory."""
        begun = self.events("director", "campaign_started")
        return str((begun[0].payload if begun else {}).get("campaign") or self.paths.root.name)

    def events(self, store: str, *kinds: str) -> list[Event]:
        """Events of a store by kind, oldest first; none when the store is missing."""
        data = self.stores.get(store)
        return [] if data is None else data.of(*kinds)

    def until(self, heads: Mapping[str, Any]) -> RunData:
        """The run as it was when its journals had these heads; a head that is not readable counts as none."""
        stores = dict[str, StoreData]()
        for name, head in heads.items():
            seq = head.get("seq") if isinstance(head, dict) else None
            data = self.stores.get(name)
            if data is not None and isinstance(seq, int) and 0 <= seq <= len(data.events):
                last = data.events[seq - 1].hash if seq else GENESIS.hex()
                stores[name] = StoreData(name, data.events[:seq], seq, last, data.broken)
        return replace(self, stores=stores)

    def researchers(self) -> list[StoreData]:
        """The journals of researchers."""
        return [data for name, data in sorted(self.stores.items()) if name.startswith("researcher/")]


def load_run(run_dir: Path) -> RunData:
    """Read the campaign in `run_dir`. Raises `NoRunError` when there is none."""
    root = run_dir.resolve()
    paths = RunPaths(root)
    if not paths.config.exists() and not paths.databases():
        raise NoRunError(f"{run_dir} holds no campaign: neither {paths.config.name} nor a journal is there")
    warnings: list[str] = []
    places = sorted(paths.databases().items(), key=lambda place: _READ_ORDER.get(place[0], 1))
    stores = {name: read_store(name, path) for name, path in places}
    for office in OFFICES:
        if office not in stores:
            warnings.append(f"the {office} has no journal yet")
    for data in stores.values():
        if data.broken is not None:
            warnings.append(f"journal of {data.name} is broken at event {data.broken.seq}: {data.broken.reason}")
    config = _config(paths.config, warnings)
    return RunData(paths, config, stores, _tasks(paths.public, warnings), _public_key(root), tuple(warnings))


def phase_of(run_dir: Path) -> str:
    """The phase that the campaign's journal tells, "not started" before the first."""
    path = RunPaths(run_dir).director_db
    if not path.exists():
        return "not started"
    found = [str(event.payload.get("phase")) for event in read_store("director", path).of("phase")]
    return found[-1] if found else "not started"


def read_store(name: str, path: Path) -> StoreData:
    """The journal of one store in one consistent read."""
    try:
        db = open_readonly(path)
    except (FileNotFoundError, sqlite3.DatabaseError) as error:
        return StoreData(name, (), 0, "", BrokenEvent(0, f"the database cannot be opened: {error}"))
    try:
        db.execute("BEGIN")
        report = verify_chain(db)
        last = None if report.broken is None else report.events
        events = _events(db, last)
        return StoreData(name, events, report.events, report.head, report.broken)
    except (sqlite3.DatabaseError, WireError, TypeError) as error:
        return StoreData(name, (), 0, "", BrokenEvent(0, f"the journal cannot be read: {error}"))
    finally:
        db.close()


def _events(db: sqlite3.Connection, last: int | None) -> tuple[Event, ...]:
    events: list[Event] = []
    if last != 0:
        for event in read_events(db):
            events.append(event)
            if event.seq == last:
                break
    return tuple(events)


def _config(path: Path, warnings: list[str]) -> CampaignConfig | None:
    try:
        return load_config(file=path)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        warnings.append(f"the configuration cannot be read: {error}")
        return None


def _tasks(public: Path, warnings: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(public.glob("*/task.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            warnings.append(f"{path.parent.name}/{path.name} cannot be read: {error}")
            continue
        if isinstance(data, dict):
            found[path.parent.name] = data
    return found


def _public_key(root: Path) -> bytes | None:
    try:
        return RunPaths(root).public_key.read_bytes()
    except OSError:
        return None
