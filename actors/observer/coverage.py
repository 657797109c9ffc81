"""In which state a run is, and what verification does not cover in it: the words of the first line.

Of a run that is closed nothing is left out but locks and SQLite's side files, which hold nothing of their own. Of any
other run the columns and files that no event tells are named, one by one.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.observer.audit_derived import Derived
from actors.observer.audit_files import DIRECTOR, EVALUATOR, begun
from actors.observer.audit_tables import Compared
from actors.observer.run_data import RunData
from cluster.inventory import SIDE_FILES

LOCKS = Path("/proc/locks")
DONE = "done"


@dataclass(frozen=True, slots=True)
class State:
    """What a run has come to. `pinned`: its first event pins key and files, which older versions did not."""

    phase: str
    going_on: bool
    sealed: bool
    closed: bool
    pinned: bool

    @property
    def to_be_closed(self) -> bool:
        """Whether a closing must be there."""
        return self.pinned and self.phase == DONE and not self.going_on

    def __str__(self) -> str:
        words = [f"still going on, phase {self.phase}"] if self.going_on else []
        if not self.going_on:
            words.append("ended" if self.phase == DONE else f"not ended, last phase {self.phase}")
        words.append("sealed" if self.sealed else "never sealed")
        words.append("closed" if self.closed else "not closed")
        return ", ".join([*words, *([] if self.pinned else ["made by an older version"])])


def state_of(run: RunData, going_on: bool | None = None) -> State:
    """The state of a run; `going_on` is looked up in the kernel's list of locks when it is `None`."""
    phases = run.events(DIRECTOR, "phase")
    return State(
        phase=str(phases[-1].payload.get("phase")) if phases else "not started",
        going_on=_is_locked(run.paths.lock) if going_on is None else going_on,
        sealed=bool(run.events(EVALUATOR, "sealed")),
        closed=run.paths.closing.is_file(),
        pinned="format" in begun(run),
    )


def _is_locked(path: Path) -> bool:
    """Whether a driver on this machine holds the run. Reading the kernel's list takes the lock from nobody."""
    try:
        about = path.lstat()
        locks = LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    return stat.S_ISREG(about.st_mode) and any(
        "FLOCK" in line and line.split()[-3].endswith(f":{about.st_ino}") for line in locks if len(line.split()) > 5
    )


def uncovered(run: RunData, state: State, compared: dict[str, Compared], derived: Derived) -> Iterator[str]:
    """What a change of would not be noticed, in words."""
    yield f"locks and SQLite's side files (*{', *'.join(SIDE_FILES)})"
    if state.closed:
        return
    yield "everything that no event tells, since it is not closed: " + ", ".join(_open_ends(run, compared, derived))


def _open_ends(run: RunData, compared: dict[str, Compared], derived: Derived) -> Iterator[str]:
    researchers = False
    for name, one in compared.items():
        office = name
        if name.startswith("researcher/"):
            if researchers:
                continue
            researchers, office = True, "researcher"
        yield from (f"{office}.{table}" for table in one.uncovered())
    told = run.events(EVALUATOR, "work_done")
    public = any(isinstance(event.payload.get("public"), dict) for event in told)
    cases = all(isinstance(event.payload.get("files"), dict) for event in run.events(EVALUATOR, "case_opened"))
    yield from (f"{path} ({why})" for path, why in derived.unknown.items())
    yield from () if public else ("public/",)
    yield from () if cases else ("what case files say",)
    yield from () if begun(run).get("config_sha256") else ("comments and layout of config.yaml",)
    yield "objects that no event names"
    yield "leases/, judge/, workspaces and further files"
    yield "free space in databases"
