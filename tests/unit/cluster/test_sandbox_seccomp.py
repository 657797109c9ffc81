from __future__ import annotations

import dataclasses
import json
import platform
import signal
import sys
import sysconfig
from pathlib import Path

import pytest

from cluster.sandbox import Bind, SandboxError, seccomp
from tests.unit.cluster.sandbox_kit import needs_sandbox, python_spec, run

CALLS = """
import ctypes, errno, json, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(number, *(ctypes.c_long(a) for a in args))
    return errno.errorcode.get(ctypes.get_errno(), "ok") if result < 0 else "ok"
x86 = platform.machine() == "x86_64"
high = 1 << 32
answers = {
    "socket vsock": call(41 if x86 else 198, 40, 1, 0),
    "socket vsock high bits": call(41 if x86 else 198, 40 | high, 1, 0),
    "socket netlink high bits": call(41 if x86 else 198, 16 | high, 3, 0),
    "socket alg": call(41 if x86 else 198, 38, 5, 0),
    "socket packet": call(41 if x86 else 198, 17, 3, 0),
    "socket x25": call(41 if x86 else 198, 9, 1, 0),
    "socket inet": call(41 if x86 else 198, 2, 1, 0),
    "clone3": call(435, 0, 0),
    "unshare": call(272 if x86 else 97, 0x10000000),
    "tiocsti": call(16 if x86 else 29, 0, 0x5412, 0),
    "tiocsti high bits": call(16 if x86 else 29, 0, 0x5412 | high, 0),
    "open_tree": call(428, -100, 0, 0),
    "io_uring": call(425, 1, 0),
    "keyctl": call(250 if x86 else 219, 0, -3, 0),
}
if x86:
    answers["clone newuser"] = call(56, 0x10000000 | 17, 0, 0, 0, 0)
print(json.dumps(answers))
"""
DENY = """
import os, subprocess, sys, threading
from cluster.sandbox import deny_exec, prepare_deny_exec
prepare_deny_exec()
assert subprocess.run(["true"]).returncode == 0
deny_exec()
pid = os.fork()
if pid == 0:
    try:
        os.execv("/usr/bin/true", ["true"])
    except PermissionError:
        os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
answer = []
def attempt():
    try:
        subprocess.run(["true"])
    except PermissionError:
        answer.append("refused")
thread = threading.Thread(target=attempt); thread.start(); thread.join()
print(*answer)
"""


def test_a_program_is_whole_instructions() -> None:
    assert len(seccomp.program()) % 8 == 0
    assert len(seccomp.program(no_exec=True)) > len(seccomp.program()) > 200


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(SandboxError, match="seccomp"):
        seccomp.deny_exec()


@needs_sandbox
def test_denied_calls_fail_even_with_bits_that_the_kernel_ignores() -> None:
    status, out, err = run(python_spec(CALLS))
    assert (status, err) == (0, "")
    answers = json.loads(out)
    assert answers.pop("socket inet") == "ok"
    assert answers.pop("clone3") == "ENOSYS"
    assert set(answers.values()) == {"EPERM"}


@needs_sandbox
def test_a_process_can_forbid_itself_to_execute_programs() -> None:
    root = Path(__file__).parents[3]
    spec = python_spec(DENY, ro_binds=(Bind(str(root / "cluster"), "/lib-aar/cluster"),))
    paths = f"import sys; sys.path[:0] = ['/lib-aar', {sysconfig.get_path('purelib')!r}]\n"
    argv = (*spec.argv[:-1], paths + spec.argv[-1])
    assert run(dataclasses.replace(spec, argv=argv)) == (0, "9\nrefused\n", "")


FOREIGN = """
import ctypes, mmap, sys
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex(sys.argv[1]))
print(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() > 0)
"""


@needs_sandbox
@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86-64")
@pytest.mark.parametrize(("code", "status"), [
    ("b8270000000f05c3", 0),  # getpid, 64-bit
    ("b814000000cd80c3", 128 + signal.SIGSYS),  # getpid by int 0x80, 32-bit
    ("b8270000400f05c3", 128 + signal.SIGSYS),  # getpid, x32
])  # fmt: skip
def test_the_filter_cannot_be_passed_through_another_abi(code: str, status: int) -> None:
    assert run(python_spec(FOREIGN, code))[0] == status


LISTING = """
import socket
tries = {"route": (16, 3, 0), "netfilter": (16, 3, 12), "audit": (16, 3, 9), "packet": (17, 3, 0), "vsock": (40, 1, 0),
         "alg": (38, 5, 0), "rds": (21, 5, 0)}
for name, words in tries.items():
    try:
        socket.socket(*words).close()
        print(name)
    except PermissionError:
        pass
try:
    socket.socketpair(16, 3, 0)
    print("pair")
except OSError:
    pass
print(len(socket.if_nameindex()))
"""


@needs_sandbox
def test_interfaces_may_be_listed_by_route_netlink_alone_and_only_when_asked() -> None:
    spec = python_spec(LISTING)
    assert run(dataclasses.replace(spec, interfaces=True)) == (0, "route\n1\n", "")
    assert "route" not in run(spec)[1].split("\n")
