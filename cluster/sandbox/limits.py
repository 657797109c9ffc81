"""Control groups of sandboxes: one group per sandbox, made and removed by its owner.

Works with cgroup v2 (a delegated subtree) and v1 (memory, pids and cpu hierarchies), whichever this process can really
use: `find_hierarchies` makes a test group and sets every limit on it before it believes in one. Where nothing is
writable, the caller falls back to rlimits and the sandbox's grade says so.
Groups are named `aar-<pid>-<token>`; those of dead owners are swept when the hierarchies are searched.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.sandbox.errors import SandboxError
from cluster.sandbox.spec import Limits
from cluster.text import lines

_PREFIX = "aar-"
_CPU_PERIOD_US = 100_000
_CONTROLLERS = ("memory", "pids", "cpu")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A writable place for groups: `base` below a mount of `version`, able to limit `controllers`."""

    base: Path
    version: int
    controllers: tuple[str, ...]


def _settings(version: int, limits: Limits) -> dict[str, list[tuple[str, str, bool]]]:
    """Per controller: (file, value, required)."""
    quota = "max" if limits.cores is None else str(int(limits.cores * _CPU_PERIOD_US))
    if version == 2:
        return {
            "memory": [("memory.max", str(limits.memory_bytes), True), ("memory.swap.max", "0", False)],
            "pids": [("pids.max", str(limits.processes), True)],
            "cpu": [("cpu.max", f"{quota} {_CPU_PERIOD_US}", True)],
        }
    memory = str(limits.memory_bytes)
    return {
        "memory": [("memory.limit_in_bytes", memory, True), ("memory.memsw.limit_in_bytes", memory, False)],
        "pids": [("pids.max", str(limits.processes), True)],
        "cpu": [("cpu.cfs_period_us", str(_CPU_PERIOD_US), True),
                ("cpu.cfs_quota_us", "-1" if quota == "max" else quota, True)],
    }  # fmt: skip


def _unescape(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _mounts(proc: Path) -> list[tuple[int, frozenset[str], Path, str]]:
    """The cgroup mounts: (version, v1 controllers, mount point, root of the mount within its hierarchy)."""
    found = []
    for line in lines((proc / "self/mountinfo").read_text(errors="surrogateescape")):
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = left.split()
            version = 2 if kind == "cgroup2" else 1
            controllers = frozenset(options.split(",")) & frozenset(_CONTROLLERS)
            found.append((version, controllers, Path(_unescape(fields[4])), _unescape(fields[3])))
    return found


def _own_paths(proc: Path) -> dict[str, str]:
    """The own group per v1 controller name, and under '' that of v2."""
    paths = {}
    for line in lines((proc / "self/cgroup").read_text(errors="surrogateescape")):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _candidates(mount: Path, root: str, own: str) -> list[Path]:
    """Places for groups, best first: the own group (its limits then hold as well) and its ancestors up to the mount."""
    relative = own.removeprefix(root) if root != "/" else own
    start = mount / relative.lstrip("/")
    if not start.is_dir() or ".." in relative:
        start = mount
    return [start, *(parent for parent in start.parents if parent.is_relative_to(mount))]


def _usable(base: Path, version: int, controllers: tuple[str, ...]) -> tuple[str, ...]:
    """The controllers with which a test group below `base` really takes a limit."""
    if not os.access(base / "cgroup.procs", os.W_OK):  # v2 asks this right of whoever moves a process into a child
        return ()
    if version == 2:
        for controller in controllers:
            with contextlib.suppress(OSError):  # refused where processes live: then only an ancestor can serve
                (base / "cgroup.subtree_control").write_text(f"+{controller}")
    test = base / f"{_PREFIX}{os.getpid()}-test-{secrets.token_hex(4)}"
    try:
        test.mkdir()
    except OSError:
        return ()
    try:
        return tuple(name for name in controllers if _apply(test, _settings(version, Limits(cores=1.0))[name]))
    finally:
        test.rmdir()


def _apply(group: Path, settings: list[tuple[str, str, bool]]) -> bool:
    for name, value, required in settings:
        try:
            (group / name).write_text(value)
        except OSError:
            if required:
                return False
    return True


def _sweep(base: Path) -> None:
    """Remove the empty groups of owners that died without removing them."""
    for group in base.glob(f"{_PREFIX}*"):
        owner = group.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):  # still populated, or swept by somebody else
                group.rmdir()


def search(proc: Path = Path("/proc")) -> tuple[Hierarchy, ...]:
    """Find writable places for memory, pids and cpu; at most one place per controller, v2 before v1."""
    missing = list(_CONTROLLERS)
    found = []
    try:
        own, mounts = _own_paths(proc), sorted(_mounts(proc), key=lambda mount: -mount[0])
    except OSError:
        return ()
    for version, of_mount, point, root in mounts:
        wanted = tuple(name for name in missing if version == 2 or name in of_mount)
        path = own.get("", "/") if version == 2 else own.get(min(of_mount, default=""), "/")
        for base in _candidates(point, root, path) if wanted else ():
            if usable := _usable(base, version, wanted):
                _sweep(base)
                found.append(Hierarchy(base, version, usable))
                missing = [name for name in missing if name not in usable]
                break
    return tuple(found)


@functools.cache
def find_hierarchies() -> tuple[Hierarchy, ...]:
    """`search()` once per process: rights to control groups do not change while it runs."""
    return search()


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _read_count(path: Path, key: str) -> int:
    try:
        counts = lines(path.read_text())
    except OSError:
        return 0
    return sum(int(value) for name, _, value in (line.partition(" ") for line in counts) if name == key)


class Group:
    """The control group of one sandbox, over one or more hierarchies. Not thread-safe; its sandbox locks."""

    def __init__(self, limits: Limits, hierarchies: tuple[Hierarchy, ...] | None = None) -> None:
        """Make the group and set its limits. Raises `SandboxError` when a group that worked before cannot be made."""
        name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        self._parts: list[tuple[Path, Hierarchy]] = []
        for hierarchy in find_hierarchies() if hierarchies is None else hierarchies:
            path = hierarchy.base / name
            settings = _settings(hierarchy.version, limits)
            try:
                path.mkdir()
            except OSError as error:
                self.remove()
                raise SandboxError(f"cannot make the control group {path}: {error.strerror}") from error
            self._parts.append((path, hierarchy))
            if not all(_apply(path, settings[controller]) for controller in hierarchy.controllers):
                self.remove()
                raise SandboxError(f"the control group {path} takes no limit")

    def limits(self, controller: str) -> bool:
        """Whether this group enforces `memory`, `pids` or `cpu`."""
        return self._path(controller) is not None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The directories of the group, empty once removed."""
        return tuple(path for path, _ in self._parts)

    @property
    def enter(self) -> tuple[str, ...]:
        """The files to which a process writes its pid to join."""
        return tuple(str(path / "cgroup.procs") for path in self.paths)

    def _path(self, controller: str) -> tuple[Path, int] | None:
        return next(((path, h.version) for path, h in self._parts if controller in h.controllers), None)

    def peak_memory(self) -> int | None:
        """Highest bytes in use so far, page cache included; None where the kernel does not say."""
        part = self._path("memory")
        if part is None:
            return None
        return _read_number(part[0] / ("memory.peak" if part[1] == 2 else "memory.max_usage_in_bytes"))

    def oom_kills(self) -> int:
        """Processes that the kernel killed for exceeding the memory limit."""
        part = self._path("memory")
        if part is None:
            return 0
        return _read_count(part[0] / ("memory.events" if part[1] == 2 else "memory.oom_control"), "oom_kill")

    def pids(self) -> set[int]:
        """Processes in the group, as this process's pid namespace numbers them."""
        found = set()
        for path in self.paths:
            with contextlib.suppress(FileNotFoundError):
                found |= {int(word) for word in (path / "cgroup.procs").read_text().split()}
        return found - {0}

    def kill_all(self, deadline: float) -> bool:
        """Kill until the group is empty; False when it is not by `deadline` (monotonic seconds)."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def remove(self) -> None:
        """Remove the empty group; a directory that is still busy is left to the next sweep."""
        for path in self.paths:
            for _ in range(50):
                try:
                    path.rmdir()
                except FileNotFoundError:
                    break
                except OSError:  # EBUSY for a moment after the last process has gone
                    time.sleep(0.002)
                else:
                    break
        self._parts = []
