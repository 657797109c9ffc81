"""The evaluator's process is killed before everything that audits and sealing do to the disk, and a new one goes on."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.journal import verify_chain
from cluster.store import open_readonly
from tests.unit.actors.evaluator_world import FakeScheduler, Oracle, World

A = "01-a"
SECRET = bytes(range(32))
SIZES = {"seal_seeds": 3, "board_seeds": 3, "finalists": 1}
EVALUATOR = f"{os.sep}actors{os.sep}evaluator{os.sep}"
CHANGES = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"})
_WRITES = os.O_WRONLY | os.O_RDWR
KILLED, FAILED = 7, 8
STATE = "scheduler.pickle"


class LastingScheduler(FakeScheduler):
    """A scheduler that outlives the evaluator: its leases and charges are in a file."""

    def __init__(self, leases: Path, oracle: Callable[[], Oracle]) -> None:
        super().__init__(leases, oracle)
        self._place = place = leases.parent.parent.parent / STATE
        if place.exists():
            self.requests, self.results, self.spent = pickle.loads(place.read_bytes())  # noqa: S301
        self.after = lambda what, key: self.keep()

    def keep(self) -> None:
        self._place.write_bytes(pickle.dumps((self.requests, self.results, self.spent)))


def begun(root: Path) -> World:
    """The world of a run directory as it stands, with the scheduler that it had."""
    secret = b"" if (root / STATE).exists() else SECRET
    return World(root, secret=secret, make_scheduler=LastingScheduler, scoring=SIZES)


def prepare(root: Path) -> None:
    """A campaign before SEAL whose best method is a cheat, so that two are audited and a case is opened."""
    world = begun(root)

    async def work() -> None:
        await world.evaluator.prepare()
        for number, (skill, extra) in enumerate(((0.90, "CHEATS = 1"), (0.80, ""))):
            await world.evaluator.submit(f"k{number}", A, world.method(skill, extra), f"m{number}", "dev")

    asyncio.run(work())
    world.store.close()


def seal(root: Path) -> None:
    asyncio.run(begun(root).evaluator.seal())


def figures(root: Path) -> dict[str, Any]:
    """All that must come out the same, and how often what must be done once was done."""
    world = begun(root)
    sealed = world.paths.revealed.read_text(encoding="utf-8")
    shown = [
        {k: v for k, v in record.items() if k not in ("record_id", "created_us", "signature", "lease_ids")}
        for record in world.evaluator.records()
    ]
    kinds = ("candidates_ranked", "finalists_frozen", "case_opened", "sealed", "secret_revealed")
    case = next((world.paths.root / "cases").glob("*/case.md"))
    found = {
        "revealed": sealed,
        "records": sorted(shown, key=lambda r: (r["tier"], r["method"])),
        "once": {kind: len(world.kinds(kind)) for kind in kinds},
        "leases": sorted(world.scheduler.requests),
        "charges": sorted(world.scheduler.spent),
        "case": [line for line in case.read_text().splitlines() if not line.startswith("Leases")],
        "left": sorted(str(path) for path in (world.paths.judge / "leases").rglob("*")),
    }
    world.store.close()
    assert verify_chain(open_readonly(world.paths.evaluator_db)).broken is None
    return found


def _place() -> str:
    """The innermost line of the evaluator that is being carried out, and the line that called it."""
    frame: Any = sys._getframe(2)
    lines: list[str] = []
    while frame is not None and len(lines) < 2:
        if EVALUATOR in frame.f_code.co_filename:
            lines.append(f"{frame.f_code.co_filename.split(EVALUATOR)[1]}:{frame.f_lineno}")
        frame = frame.f_back
    return " of ".join(lines)


def seal_until_killed(root: Path, died: Path) -> None:
    """Seal, and be killed before the first change that nobody was killed before; the changes are noted in `died`."""
    world = begun(root)
    known = set(died.read_text().splitlines()) if died.exists() else set()

    def change(what: str) -> None:
        where, fault = _place(), sys.exc_info()[1]
        if fault is not None and not isinstance(fault, FileNotFoundError):
            os.write(2, f"{what} {where} after {fault!r}\n".encode())
            os._exit(FAILED)  # a kill in the clean-up would hide that going on had failed
        if where and (name := f"{what} {where}") not in known:
            with os.fdopen(os.open(died, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w") as file:
                known.add(name)
                file.write(name + "\n")
            os._exit(KILLED)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES or (event == "open" and not (int(args[2] or 0) & _WRITES)):
            return
        if root.name in str(args[0]) and STATE not in str(args[0]):
            change(event)

    sys.addaudithook(hook)
    world.store._db.set_trace_callback(lambda sql: change(sql.split()[0]) if not sql.startswith("SELECT") else None)
    asyncio.run(world.evaluator.seal())
    os._exit(0)


def in_a_child(work: Callable[..., None], *args: Path) -> int | None:
    """Exit status of `work` in a forked process. What starts threads is done in such children alone."""
    process = multiprocessing.get_context("fork").Process(target=work, args=args)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.timeout(900)
def test_an_evaluator_killed_before_every_change_of_audits_and_sealing_ends_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    calm, hit, died = tmp_path / "calm", tmp_path / "hit", tmp_path / "died"
    assert in_a_child(prepare, calm) == 0
    assert in_a_child(prepare, hit) == 0
    assert in_a_child(seal, calm) == 0
    deaths = 0
    while (status := in_a_child(seal_until_killed, hit, died)) == KILLED:
        deaths += 1
    assert status == 0, f"death {deaths + 1} was none of ours; the last at {died.read_text()}"
    places = died.read_text()
    assert deaths > 40
    for part in ("audits/trial_runs.py", "audits/casefile.py", "audits/material.py", "lease_client.py", "evaluator.py"):
        assert part in places
    assert figures(hit) == figures(calm)
