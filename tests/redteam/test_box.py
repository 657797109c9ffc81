"""Attacks between sandboxes and on the terminal of whoever started one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from cluster.sandbox import spawn
from tests.unit.cluster.sandbox_kit import needs_sandbox, python_spec, read_line

pytestmark = needs_sandbox

KILLER = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for pid in [-1, *(p for p in range(2, 40000) if p != os.getpid())]:
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
print('tried', flush=True)
sys.stdin.read()
"""
TYPIST = """
import ctypes, fcntl, os, sys
done = []
for fd in range(64):
    for request in (0x5412, 0x541C, (1 << 32) | 0x5412):
        if ctypes.CDLL(None).ioctl(fd, ctypes.c_ulong(request), b'x') == 0: done.append(fd)
try: done.append(os.open('/dev/tty', os.O_RDWR))
except OSError: pass
print('typed', done)
"""


def test_ending_one_sandbox_leaves_its_neighbour_alone() -> None:
    """Neither a signal to everybody from inside one, nor its end by its owner, reaches the other."""
    with spawn(python_spec("print('up', flush=True)\nimport sys\nsys.stdin.read()", uid=64020)) as neighbour:
        assert read_line(neighbour) == "up"
        with spawn(python_spec(KILLER, uid=64020)) as hostile:
            assert read_line(hostile) == "tried"
            assert neighbour.poll() is None
            hostile.kill()
        assert neighbour.poll() is None
        assert neighbour.stdin is not None
        neighbour.stdin.close()
        assert neighbour.wait(20) == 0


def test_nothing_can_be_typed_into_the_callers_terminal() -> None:
    """With the caller's own terminal as its standard input; the control is the same program without a sandbox."""
    outcomes = []
    for contained in (False, True):
        leader, follower = pty.openpty()
        try:
            if contained:
                with spawn(python_spec(TYPIST), stdin=os.fdopen(os.dup(follower), "rb")) as sandbox:
                    out, _ = sandbox.communicate(timeout=20)
            else:
                out = subprocess.run(
                    [sys.executable, "-I", "-c", f"import fcntl; fcntl.ioctl(0, 0x540E, 0)\n{TYPIST}"],
                    stdin=follower, stdout=subprocess.PIPE, start_new_session=True, check=True,
                ).stdout  # fmt: skip
        finally:
            os.close(leader)
            os.close(follower)
        outcomes.append(out.decode().strip())
    assert outcomes[1] == "typed []"
    assert outcomes[0] != "typed []", "the probe proves nothing here"
