"""Decoys for the probe: things that a sandbox must not reach, made fresh, holding a secret that exists nowhere else.

Everything belongs to the uid of the sandbox where the caller may arrange that, so that file modes and uids cannot hide
a hole in the namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.sandbox.errors import SandboxError
from cluster.trees import remove_tree

_PROGRAM = str(Path(__file__).with_name("decoy_process.py"))
_SYS_ADD_KEY = {"x86_64": 248, "aarch64": 217}
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
_SESSION, _KEYCTL_INVALIDATE = -3, 21


def _add_key(name: str, secret: str) -> int:
    """The serial of a key in this process's session keyring; 0 where the kernel or a container allows none."""
    number = _SYS_ADD_KEY.get(os.uname().machine)
    if number is None:
        return 0
    payload = secret.encode()
    libc = ctypes.CDLL(None)
    return max(0, int(libc.syscall(number, b"user", name.encode(), payload, len(payload), _SESSION)))


def _remove_key(serial: int) -> None:
    if serial:
        ctypes.CDLL(None).syscall(_SYS_KEYCTL[os.uname().machine], _KEYCTL_INVALIDATE, serial)


def victim_alive(pid: int) -> bool:
    """Whether the victim still runs (a killed one stays as a zombie until its parent, the decoy process, ends)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_with(marker: str) -> list[int]:
    """The processes of this machine that carry `marker` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def decoys(uid: int) -> Iterator[dict[str, Any]]:
    """Make the decoys for a sandbox of `uid`, yield their description for the probe, and remove all of them."""
    marker, secret = f"aar-decoy-{secrets.token_hex(6)}", secrets.token_hex(16)
    folder = Path(tempfile.mkdtemp(prefix="aar-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
    shm = Path(f"/dev/shm/{marker}")
    serial = _add_key(marker, secret)
    inherited = os.open(folder / "inherited", os.O_RDWR | os.O_CREAT, 0o600)
    process = None
    try:
        folder.chmod(0o755)
        os.write(inherited, secret.encode())
        shm.write_text(secret)
        if os.geteuid() == 0:
            os.chown(folder, uid, uid)
            os.chown(shm, uid, uid)
        command = [sys.executable, "-I", "-S", "-B", _PROGRAM, str(folder), str(uid), marker]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"DECOY_SECRET": secret})
        line = process.stdout.readline() if process.stdout is not None else b""
        if not line:
            raise SandboxError("the process that holds the decoys did not start")
        description = json.loads(line)
        yield {
            **description, "secret": secret, "marker": marker, "daemon": f"{marker}-daemon", "fd": inherited,
            "shm": str(shm), "key_serial": serial, "key_name": marker, "venv": sysconfig.get_path("purelib"),
        }  # fmt: skip
    finally:
        os.close(inherited)
        if process is not None:
            process.communicate()
        _remove_key(serial)
        shm.unlink(missing_ok=True)
        remove_tree(folder)
