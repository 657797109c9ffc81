"""Steps of the wall clock change no duration: the two clocks themselves, and a rule that holds for all of the code."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from cluster.clock import Mark, now_us
from cluster.steady import SteadyClock
from cluster.store import Store
from tests.unit.wall_clock import STEPS, WallClock

ROOT = Path(__file__).parents[3]
PACKAGES = ("actors", "cluster", "forum_actor", "gpu_pool", "scripts")


@pytest.mark.parametrize("step", STEPS)
def test_a_steady_clock_begins_as_the_wall_and_is_never_stepped(tmp_path: Path, wall: WallClock, step: int) -> None:
    store = Store(tmp_path / "s.db")
    clock = SteadyClock(store)
    began = clock()
    assert abs(began - now_us()) < 1_000_000
    wall.step(step)
    assert 0 <= clock() - began < 1_000_000
    again = SteadyClock(store)
    assert 0 <= again() - began < 1_000_000
    wall.step(-2 * step)
    assert again() <= SteadyClock(store)() <= again()


def test_a_steady_clock_counts_while_nobody_lives_and_stands_while_the_machine_is_off(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    began = SteadyClock(store, read=lambda: Mark("first", 5_000_000))()
    assert SteadyClock(store, read=lambda: Mark("first", 65_000_000))() == began + 60_000_000
    later = began + 90_000_000
    assert SteadyClock(store, later, lambda: Mark("second", 7))() == later
    assert SteadyClock(store, later, lambda: Mark("second", 10_000_007))() == later + 10_000_000


def test_a_steady_clock_never_gives_less_than_the_books_know(tmp_path: Path) -> None:
    """A run of a version that wrote wall time, which had been stepped ten years ahead."""
    ahead = now_us() + 10 * 365 * 86_400 * 1_000_000
    assert SteadyClock(Store(tmp_path / "s.db"), ahead)() >= ahead


def test_marks_of_another_start_of_the_machine_are_not_compared() -> None:
    assert Mark("a", 5).until(Mark("a", 9)) == 4
    assert Mark("a", 5).until(Mark("b", 9)) is None
    assert Mark("a", 9).until(Mark("a", 5)) is None  # another machine with the same id: a container that was moved
    first = Mark.now()
    time.sleep(0.001)
    assert (first.until(Mark.now()) or 0) >= 1000


def _calls(node: ast.AST) -> set[str]:
    return {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}


def test_no_code_computes_with_the_wall_clock() -> None:
    """Only `cluster.clock` reads it, and nobody subtracts or compares what it says."""
    faults = []
    for path in (p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(ROOT)
        if str(where) != "cluster/clock.py":
            read = _calls(tree) & {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
            faults += [f"{where}: {name}" for name in sorted(read)]
        for node in ast.walk(tree):
            minus = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)
            looked_at = isinstance(node, ast.Compare) or minus
            if looked_at and isinstance(node, ast.expr) and "now_us" in _calls(node):
                faults.append(f"{where}:{node.lineno}: {ast.unparse(node)}")
    assert faults == []
