"""From a spec to a plan: the argument list of bwrap and what the launcher does before it.

Pure: nothing here starts or changes anything. A plan is named lists of words for the launcher, a program of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from cluster.sandbox.gpu import gpu_args, gpu_env
from cluster.sandbox.launcher import Plan
from cluster.sandbox.spec import MIB, Limits, SandboxSpec

INSIDE_PATH = "/usr/local/bin:/usr/bin:/bin"
_DEFAULT_ENV = {
    "PATH": INSIDE_PATH, "HOME": "/ws", "USER": "sandbox", "LOGNAME": "sandbox", "LANG": "C.UTF-8", "TMPDIR": "/tmp",
}  # fmt: skip
_STAGES = ("/mnt", "/media", "/srv", "/var/tmp")
_ADDRESS_HEADROOM = 1024 * MIB
"""Address space that Python with torch maps without touching it (measured: 0.5 to 0.8 GiB)."""


def environment(spec: SandboxSpec) -> dict[str, str]:
    """The neutral defaults of the environment; what the spec names itself goes before them."""
    return {**_DEFAULT_ENV, **gpu_env(spec.gpus)}


def address_limit(limits: Limits) -> int:
    """The limit of address space where no control group bounds memory, in bytes."""
    return limits.memory_bytes + _ADDRESS_HEADROOM


def _system_args() -> list[str]:
    """The read-only system: /usr, and the other top directories as links or binds, as this distribution has them."""
    args: list[str] = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            args += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            args += ["--ro-bind", str(path), str(path)]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        args += ["--ro-bind-try", name, name]
    return args


def _namespace_args(uid: int, nested: bool) -> list[str]:
    args = [
        "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
        "--hostname", "sandbox", "--uid", str(uid), "--gid", str(uid), "--die-with-parent", "--new-session",
        "--clearenv", "--cap-drop", "ALL",
    ]  # fmt: skip
    return [*args, *(("--cap-add", "CAP_SYS_ADMIN") if nested else ("--disable-userns", "--assert-userns-disabled"))]


def bwrap_args(spec: SandboxSpec) -> tuple[list[str], list[tuple[str, int, bool]]]:
    """The arguments of bwrap, and for each bind (host path, index of that path in the arguments, writable).

    The launcher may bind a source to another place first and then replaces the argument.
    """
    args = _namespace_args(spec.uid, spec.nested)
    for key, value in {**environment(spec), **spec.env}.items():
        args += ["--setenv", key, value]
    args += _system_args()
    args += ["--proc", "/proc", "--dev", "/dev"]
    if not spec.nested:  # which mounts a /proc of its own: the kernel allows that where the whole of this one is seen
        args += ["--ro-bind", "/proc/sys", "/proc/sys"]
    args += ["--size", str(spec.shm_bytes), "--tmpfs", "/dev/shm", *gpu_args(spec.gpus), "--remount-ro", "/dev"]
    args += ["--size", str(spec.tmp_bytes), "--tmpfs", "/tmp"]
    if all(bind.inside != "/ws" for bind in spec.ro_binds + spec.rw_binds):
        args += ["--size", str(spec.ws_bytes), "--tmpfs", "/ws"]
    sources: list[tuple[str, int, bool]] = []
    binds = [(bind, False) for bind in spec.ro_binds] + [(bind, True) for bind in spec.rw_binds]
    for bind, writable in sorted(binds, key=lambda pair: pair[0].inside):  # parents before what lies inside them
        args += ["--bind" if writable else "--ro-bind", bind.host, bind.inside]
        sources.append((bind.host, len(args) - 2, writable))
    return [*args, "--remount-ro", "/", "--chdir", spec.chdir], sources


def _inner_command(spec: SandboxSpec, counted: bool) -> list[str]:
    """Without a pids cgroup, limit processes inside: RLIMIT_NPROC counts there only the own user namespace."""
    for prlimit in ("/usr/bin/prlimit", "/bin/prlimit"):
        if not counted and Path(prlimit).exists():
            return [prlimit, f"--nproc={spec.limits.processes}:{spec.limits.processes}", *spec.argv]
    return list(spec.argv)


def build_plan(spec: SandboxSpec, *, bwrap: str, seccomp: bytes, enter: tuple[str, ...], memory: bool,
               pids: bool) -> Plan:  # fmt: skip
    """Everything the launcher does.

    `enter` are the `cgroup.procs` files to join; `memory` and `pids` say whether those groups enforce the limit.
    """
    args, sources = bwrap_args(spec)
    sources.sort(key=lambda source: source[2])  # the launcher numbers the readable ones first
    limits = spec.limits
    rlimits = {"CORE": 0, "FSIZE": limits.file_bytes, "NOFILE": limits.open_files}
    if not memory and not spec.gpus:
        rlimits["AS"] = address_limit(limits)
    return {
        "bwrap": [bwrap],
        "parent": [str(os.getpid())],  # whose end is the sandbox's end
        "uid": [str(spec.uid)] if os.geteuid() == 0 else [],  # to take on
        "stages": [path for path in _STAGES if Path(path).is_dir()],  # what a private tmpfs may cover
        "readable": [host for host, _, writable in sources if not writable],
        "writable": [host for host, _, writable in sources if writable],
        "source_args": [str(index) for _, index, _ in sources],  # where the sources stand in `args`
        "args": args,
        "command": _inner_command(spec, pids),
        "enter": list(enter),
        "rlimits": [str(word) for pair in rlimits.items() for word in pair],
        "fds": [str(fd) for fd in spec.pass_fds],
        "seccomp": [seccomp.hex()],
    }


def encode_plan(plan: Plan) -> bytes:
    """NUL-terminated words, as `launcher.read_plan` decodes them. No word holds a NUL: specs refuse them."""
    words = [word for name, values in plan.items() for word in (name, str(len(values)), *values)]
    return b"".join(os.fsencode(word) + b"\0" for word in words)
