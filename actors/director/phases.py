"""The phases of a campaign, in order, with what each of them means."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """A phase; `next` leads to the one after it. Every phase may be entered again after a crash."""

    PREPARE = ("prepare", "task, pools and baselines are made")
    RESEARCH = ("research", "researchers work")
    SEAL = ("seal", "finalists and baselines are scored on sealed items with fresh seeds")
    REPORT = ("report", "summary, export and report are written")
    DONE = ("done", "the campaign has ended")

    def __init__(self, label: str, meaning: str) -> None:
        self.label = label
        self.meaning = meaning

    @property
    def next(self) -> Phase:
        """The phase after this one; `DONE` follows itself."""
        order = list(Phase)
        return order[min(order.index(self) + 1, len(order) - 1)]

    @classmethod
    def of(cls, label: str) -> Phase:
        """The phase with this label. Raises `KeyError`."""
        for phase in cls:
            if phase.label == label:
                return phase
        raise KeyError(label)
