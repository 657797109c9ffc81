"""What a sandbox is to be: the command, the files it sees, and its limits.

A spec is data. It is checked when it is made, so that a bad one fails where it was written and not in a child.
Everything that a spec does not name stays outside: of the host only `/usr` (with `/bin`, `/lib`, ...), the loader's
cache and the binds below are visible, and the environment holds `env` and a handful of neutral defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from cluster.sandbox.errors import SpecError

MIB = 1 << 20
FIRST_UID = 64001
"""The first uid of sandboxes; a slot with index i uses `FIRST_UID + i`, so that slots cannot signal each other."""

_RESERVED = ("/", "/proc", "/dev", "/usr", "/tmp")


def _check_path(path: str, what: str) -> None:
    if not path.startswith("/") or "\0" in path or ".." in PurePosixPath(path).parts:
        raise SpecError(f"{what} must be an absolute path without '..', not {path!r}")


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host and the absolute path where the sandbox sees it.

    A directory shows what the host puts into it later. A read-write bind must be a real directory; when the caller is
    root it is handed to the sandbox's uid (its owner changes).
    """

    host: str
    inside: str

    def __post_init__(self) -> None:
        _check_path(self.host, "the host path of a bind")
        _check_path(self.inside, "the inside path of a bind")
        if str(PurePosixPath(self.inside)) in _RESERVED:
            raise SpecError(f"a bind may not replace {self.inside!r}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one sandbox, enforced by a cgroup where one is writable and by rlimits otherwise.

    `memory_bytes` counts anonymous memory, the sandbox's tmpfs files and its page cache; `processes` counts processes
    and threads; `file_bytes` is the largest single file; `open_files` is per process; `cores` is a share of CPU time
    (1.5 = one and a half cores; None = no limit), enforced only where a cpu cgroup is writable.
    """

    memory_bytes: int = 1024 * MIB
    processes: int = 128
    file_bytes: int = 512 * MIB
    open_files: int = 1024
    cores: float | None = None

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "processes", "file_bytes", "open_files"):
            if getattr(self, name) <= 0:
                raise SpecError(f"limit {name} must be positive, not {getattr(self, name)}")
        if self.cores is not None and self.cores < 0.01:
            raise SpecError(f"limit cores must be at least 0.01, not {self.cores}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """One sandbox: `argv` runs as `uid` in `chdir` and sees only what is bound.

    `pass_fds[i]` is open inside as descriptor `3 + i`. `tmp_bytes`, `shm_bytes` and `ws_bytes` size the tmpfs at /tmp,
    /dev/shm and /ws; a bind at /ws takes the place of that tmpfs. `gpus` are device minors (`gpu_minors()`).
    `interfaces`: it may list the network interfaces of its own empty network, which gloo insists on; for trusted code.
    `nested`: it may give its children namespaces of their own; for trusted code, which denies them to its children.
    `uid` is taken on only when the caller is root; otherwise it is what the caller's own uid is called inside.
    """

    argv: tuple[str, ...]
    ro_binds: tuple[Bind, ...] = ()
    rw_binds: tuple[Bind, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    uid: int = FIRST_UID
    tmp_bytes: int = 64 * MIB
    shm_bytes: int = 64 * MIB
    ws_bytes: int = 64 * MIB
    limits: Limits = field(default_factory=Limits)
    gpus: tuple[int, ...] = ()
    pass_fds: tuple[int, ...] = ()
    interfaces: bool = False
    nested: bool = False
    chdir: str = "/ws"

    def __post_init__(self) -> None:
        if not self.argv or any("\0" in word for word in self.argv) or not self.argv[0]:
            raise SpecError("argv must name a program and hold no NUL character")
        if self.uid <= 0:
            raise SpecError(f"uid must be positive (a sandbox never runs as root), not {self.uid}")
        for name in ("tmp_bytes", "shm_bytes", "ws_bytes"):
            if getattr(self, name) <= 0:
                raise SpecError(f"{name} must be positive, not {getattr(self, name)}")
        for key, value in self.env.items():
            if not key or "=" in key or "\0" in key + value:
                raise SpecError(f"not an environment variable: {key!r}")
        _check_path(self.chdir, "chdir")
        places = [str(PurePosixPath(bind.inside)) for bind in self.ro_binds + self.rw_binds]
        for place in places:
            if places.count(place) > 1:
                raise SpecError(f"two binds at {place!r}")
