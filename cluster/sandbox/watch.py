"""The memory limit where no control group can enforce one: a thread that samples and kills.

Weaker than a cgroup: a burst between two samples passes, and tmpfs files are not counted (their own sizes bound them).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

_FIRST_S, _INTERVAL_S = 0.01, 0.25
_PAGE = 4096


def tree(root: int) -> list[int]:
    """`root` and its descendants, as far as they live at this moment."""
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                queue += [int(word) for word in (thread / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile; its children are found at the next sample
            continue
    return found


def memory_of(pid: int) -> int:
    """Proportional resident bytes of a process; where the kernel hides them, resident less shared; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except OSError:
        pass
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE


class MemoryWatch:
    """Samples a process tree until stopped and calls `kill` once when it exceeds `limit` bytes."""

    def __init__(self, root: int, limit: int, kill: Callable[[], None]) -> None:
        self.peak = 0
        self.kills = 0
        self._root = root
        self._limit = limit
        self._kill = kill
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sandbox-memory-{root}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        interval = _FIRST_S
        while not self._stop.wait(interval):
            interval = min(2 * interval, _INTERVAL_S)
            self.peak = max(self.peak, sum(memory_of(pid) for pid in tree(self._root)))
            if self.peak > self._limit:
                self.kills = 1
                self._kill()
                return

    def stop(self) -> None:
        """End the sampling; the figures stay. Does not wait: the thread may be waiting for the caller's lock."""
        self._stop.set()
