"""The watch over a team's ideas: an alarm when they collapse, and new directions where the campaign wants that.

Promises: a collapse is written down with what follows from it before anybody hears of it, is told until all have heard,
and is told once; the next one is raised only after the team has recovered. A researcher gets at most one new direction.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping

from actors.director.namer import Namer
from actors.observer.diversity import Ideas, alarm_text, reseeded, source_of
from actors.researcher.client import ResearcherClient
from cluster.config import CampaignConfig
from cluster.errors import AarError
from cluster.journal import Event, Journal, read_events
from cluster.names import CAMPAIGN, RunPaths
from cluster.objects import ObjectStore
from cluster.store import Store, open_readonly
from forum_actor.client import ForumClient

log = logging.getLogger(__name__)
_DDL = """
CREATE TABLE IF NOT EXISTS collapses (
    number INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    directions TEXT NOT NULL,
    told INTEGER NOT NULL DEFAULT 0,
    over INTEGER NOT NULL DEFAULT 0
);
"""


class IdeaWatch:
    """Looks at the code that was submitted. `forum` and `namer` are `None` in a campaign without one."""

    def __init__(
        self,
        paths: RunPaths,
        store: Store,
        config: CampaignConfig,
        forum: ForumClient | None,
        researchers: Mapping[str, ResearcherClient],
        namer: Namer | None = None,
    ) -> None:
        store.schema(_DDL)
        self._paths, self._store, self._config = paths, store, config
        self._forum, self._researchers = forum, researchers
        self._journal = Journal(store)
        self._objects, self._namer = ObjectStore(paths.objects), namer
        told = self._journal.events(kind="families_named")
        self._named: dict[str, list[str]] = {event.payload["snapshot"]: event.payload["families"] for event in told}
        self._ideas = Ideas(self._objects, self._named)
        self._read = 0
        """The last event of the evaluator's journal that was looked at."""

    @property
    def alarm(self) -> str:
        """The alarm that stands, or ""."""
        rows = self._store.query("SELECT text FROM collapses WHERE over = 0")
        return str(rows[0]["text"]) if rows else ""

    async def look(self, working: Collection[str]) -> None:
        """Take in what was submitted, raise or end the alarm, tell; `working` are the researchers that go on."""
        await self._take_in()
        team = self._ideas.team()
        if team.collapsed and not self.alarm:
            self._raise(alarm_text(team), self._directions(working))
        elif not team.collapsed and self.alarm:
            with self._store.transaction() as db:
                db.execute("UPDATE collapses SET over = 1")
                self._journal.append("ideas_recovered", {"bits": team.bits})
        await self._tell()

    async def _take_in(self) -> None:
        for event in self._submissions():
            researcher, snapshot = str(event.payload["researcher"]), str(event.payload["snapshot"])
            if self._namer is not None and snapshot not in self._named:
                await self._name(self._namer, snapshot)
            self._ideas.add(researcher, snapshot)
            self._read = event.seq

    def _submissions(self) -> list[Event]:
        if not self._paths.evaluator_db.exists():
            return []
        db = open_readonly(self._paths.evaluator_db)
        try:
            return list(read_events(db, self._read, "submission"))
        finally:
            db.close()

    async def _name(self, namer: Namer, snapshot: str) -> None:
        """Have a model name the families of a snapshot, and write down what it said."""
        source = source_of(self._objects, snapshot)
        families = None if source is None else await namer.families(snapshot, source)
        if families is not None:
            self._journal.append("families_named", {"snapshot": snapshot, "families": families, "model": namer.model})
            self._named[snapshot] = families

    def _directions(self, working: Collection[str]) -> dict[str, str]:
        """Ids of new directions, which nobody has had, by researcher; none unless the campaign wants them."""
        if not self._config.diversity.reseed:
            return {}
        moved: dict[str, str] = {}
        for row in self._store.query("SELECT directions FROM collapses ORDER BY number"):
            moved |= json.loads(row["directions"])
        had = {self._config.direction_of(name).id for name in self._config.researcher_ids()} | set(moved.values())
        free = [direction for direction in self._texts() if direction not in had]
        return reseeded(self._ideas, [name for name in working if name not in moved], free)

    def _texts(self) -> dict[str, str]:
        """All directions by id, in order; where ids are equal, that of a researcher counts."""
        spare = {direction.id: direction.text for direction in self._config.diversity.spare}
        first = {direction.id: direction.text for direction in self._config.researchers.directions}
        return first | {name: text for name, text in spare.items() if name not in first}

    def _raise(self, text: str, directions: dict[str, str]) -> None:
        with self._store.transaction() as db:
            db.execute("INSERT INTO collapses (text, directions) VALUES (?, ?)", (text, json.dumps(directions)))
            self._journal.append("ideas_collapsed", {"text": text, "directions": directions})

    async def _tell(self) -> None:
        texts = self._texts()
        for row in self._store.query("SELECT * FROM collapses WHERE told = 0"):
            try:
                for researcher, direction in json.loads(row["directions"]).items():
                    await self._researchers[researcher].redirect(texts[direction])
                if self._forum is not None:
                    draft = {"kind": "insight", "title": "Our ideas have become alike", "body": str(row["text"])}
                    await self._forum.post(f"collapse/{row['number']}", CAMPAIGN, draft)
            except AarError as error:
                log.warning("not everybody heard that ideas have collapsed; it is told again: %s", error)
                return
            with self._store.transaction() as db:
                db.execute("UPDATE collapses SET told = 1 WHERE number = ?", (row["number"],))
