"""The process that holds and serves the decoys of the probe, a program of its own: FOLDER UID MARKER.

Its secret comes in its environment; it says on stdout where everything is, and ends when stdin closes.
Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

_PR_SET_DUMPABLE = 4


def _serve(listener: socket.socket, secret: bytes) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, contextlib.suppress(OSError):
            client.sendall(secret)


def _own_address() -> str:
    """The address under which other machines know this one; loopback where there is no other."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing to connect
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def _become(uid: int) -> None:
    """Take the sandbox's uid and stay as open to inspection as an ordinary process."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def main() -> None:
    """Hold the decoys until stdin closes."""
    folder, uid, marker = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    secret = os.environ["DECOY_SECRET"].encode()
    _become(uid)
    victim = os.fork()
    if victim == 0:
        signal.pause()
        os._exit(0)
    memory = ctypes.create_string_buffer(secret)
    (folder / "sockets").mkdir()
    addresses: list[Any] = [str(folder / "unix"), str(folder / "sockets/plasma_store"), f"\0{marker}", ("0.0.0.0", 0)]
    listeners = []
    for address in addresses:
        listener = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        listeners.append(listener)
        threading.Thread(target=_serve, args=(listener, secret), daemon=True).start()
    descriptor = os.open(folder / "secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, secret)
    answer = {
        "pid": os.getpid(), "victim": victim, "address": ctypes.addressof(memory), "file": str(folder / "secret"),
        "unix": addresses[0], "ray": addresses[1], "abstract": addresses[2], "port": listeners[-1].getsockname()[1],
        "address_of_host": _own_address(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os.kill(victim, signal.SIGKILL)


if __name__ == "__main__":
    main()
