"""The escapes that a sandbox must stop, tried for real, as a program of its own: `python -I -S -B -c SOURCE`.

Runs inside the sandbox, and once outside as the control that must succeed. Reads one JSON line of decoys from stdin
and writes JSON lines to stdout. Touches decoys only: what it opens for writing it does not write, what it makes it
removes. Mode `escapes` answers {"escaped": {row: bool}}; mode `limits` exhausts processes, disk and memory, and is run
only where small limits hold: one line for the first two, then one for memory (missing when the probe is killed for it).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

_X86 = platform.machine() == "x86_64"
_SYS = {
    "process_vm_readv": 310 if _X86 else 270,
    "ptrace": 101 if _X86 else 117,
    "keyctl": 250 if _X86 else 219,
    "userfaultfd": 323 if _X86 else 282,
    "io_uring_setup": 425,
    "pidfd_getfd": 438,
}
_PTRACE_SEIZE, _PTRACE_DETACH = 0x4206, 17
_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_AF_VSOCK, _AF_NETLINK = 40, 16
_TIOCSTI = 0x5412
_KEYCTL_SEARCH, _KEYCTL_READ, _SESSION = 10, 11, -3
_FORK_TRIES = 300
_CHUNK = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


def _call(name: str, *args: Any) -> int:
    """A raw system call; raises `OSError`."""
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = int(_libc.syscall(_SYS[name], *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _file(path: str, secret: str) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123
        return secret.encode() in file.read(1 << 16)


def _connect(family: int, address: Any, secret: str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        client.connect(address)
        return client.recv(256).decode() == secret


def _proc_memory(decoys: dict[str, Any]) -> bool:
    descriptor = os.open(f"/proc/{decoys['pid']}/mem", os.O_RDONLY)
    try:
        found = os.pread(descriptor, len(decoys["secret"]), decoys["address"])
        return found.decode(errors="replace") == str(decoys["secret"])
    finally:
        os.close(descriptor)


def _vm_readv(decoys: dict[str, Any]) -> bool:
    size = len(decoys["secret"])
    buffer = ctypes.create_string_buffer(size)
    local = _Iovec(ctypes.addressof(buffer), size)
    remote = _Iovec(decoys["address"], size)
    _call("process_vm_readv", decoys["pid"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return buffer.raw.decode(errors="replace") == str(decoys["secret"])


def _ptrace(decoys: dict[str, Any]) -> bool:
    _call("ptrace", _PTRACE_SEIZE, decoys["pid"], 0, 0)
    with contextlib.suppress(OSError):  # a seized process that runs cannot be detached; it is released at our exit
        _call("ptrace", _PTRACE_DETACH, decoys["pid"], 0, 0)
    return True


def _pidfd_getfd(decoys: dict[str, Any]) -> bool:
    pidfd = os.pidfd_open(decoys["pid"])
    try:
        os.close(_call("pidfd_getfd", pidfd, 0, 0))
    finally:
        os.close(pidfd)
    return True


def _key(decoys: dict[str, Any]) -> bool:
    """By a search of the session keyring, and by the key's serial number."""
    buffer = ctypes.create_string_buffer(256)
    serials = [decoys["key_serial"]]
    with contextlib.suppress(OSError):
        name = decoys["key_name"].encode()
        serials.append(_call("keyctl", _KEYCTL_SEARCH, _SESSION, b"user", name, 0))
    for serial in serials:
        with contextlib.suppress(OSError):
            size = _call("keyctl", _KEYCTL_READ, serial, buffer, 256)
            if buffer.raw[:size] == decoys["secret"].encode():
                return True
    return False


def _opens_for_writing(path: str) -> bool:
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    return True


def _creates(path: str) -> bool:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(path)  # noqa: PTH108
    return True


def _in_child(action: Callable[[], bool]) -> bool:
    """Run what changes its process for good in a child."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if action() else 1)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _new_user_namespace() -> bool:
    return int(_libc.unshare(_CLONE_NEWUSER)) == 0


def _mounts() -> bool:
    """A mount of its own over /tmp; the control is given a mount namespace first, so that nobody else sees it."""
    if int(_libc.unshare(_CLONE_NEWNS)) == 0:
        _libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
        return int(_libc.mount(b"none", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None)) == 0
    return int(_libc.mount(b"none", b"/usr", None, ctypes.c_ulong(_MS_REMOUNT | _MS_BIND), None)) == 0


def _opens_device(decoys: dict[str, Any]) -> bool:
    """A device file of the host's first disk, made and opened; nothing is read."""
    with open("/proc/partitions", encoding="ascii") as file:  # noqa: PTH123
        major, minor = file.read().split("\n")[2].split()[:2]
    for folder in ("/tmp", os.environ.get("TMPDIR", "/tmp")):
        path = f"{folder}/{decoys['marker']}"
        with contextlib.suppress(OSError):
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
            try:
                os.close(os.open(path, os.O_RDONLY))
                return True
            finally:
                os.unlink(path)  # noqa: PTH108
    return False


def _makes_socket(family: int) -> bool:
    socket.socket(family, socket.SOCK_RAW if family == _AF_NETLINK else socket.SOCK_STREAM).close()
    return True


def _reaches_kernel(name: str, *args: Any) -> bool:
    """Whether a call gets past the filter: any other failure than EPERM and ENOSYS is the kernel's own answer."""
    try:
        os.close(_call(name, *args))
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.ENOSYS)
    return True


def _tiocsti() -> bool:
    """Fails with ENOTTY where it reaches the kernel: stdin is a pipe."""
    result = int(_libc.ioctl(0, ctypes.c_ulong(_TIOCSTI), b"x"))
    return result == 0 or ctypes.get_errno() != errno.EPERM


def _kill_victim(decoys: dict[str, Any]) -> bool:
    os.kill(decoys["victim"], signal.SIGKILL)
    return True


def _sees_process(decoys: dict[str, Any]) -> bool:
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if _file(f"/proc/{entry}/cmdline", decoys["marker"]):
                    return True
    return False


def _status(field: str) -> str:
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123
        return next((line.split()[1] for line in file if line.startswith(f"{field}:")), "")


def _leave_daemon(decoys: dict[str, Any]) -> bool:
    """Start a process that tries to outlive the run; whether it did is for the parent to see.

    Returns once the process is what it will be: the pipe closes when it executes its program.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            program = "import time; time.sleep(60)"
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", program, decoys["daemon"]])
        os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    os.read(read_end, 1)
    os.close(read_end)
    return False


def escape_rows(decoys: dict[str, Any]) -> dict[str, Callable[[], bool]]:
    """Every attempt by name; True or False says whether it got through, `OSError` that it did not."""
    secret, pid = decoys["secret"], decoys["pid"]
    return {
        "secret_file": lambda: _file(decoys["file"], secret),
        "shm_file": lambda: _file(decoys["shm"], secret),
        "inherited_fd": lambda: os.pread(decoys["fd"], 256, 0).decode() == secret,
        "tcp_loopback": lambda: _connect(socket.AF_INET, ("127.0.0.1", decoys["port"]), secret),
        "unix_abstract": lambda: _connect(socket.AF_UNIX, decoys["abstract"], secret),
        "unix_path": lambda: _connect(socket.AF_UNIX, decoys["unix"], secret),
        "ray_socket": lambda: _connect(socket.AF_UNIX, decoys["ray"], secret),
        "process_environ": lambda: _file(f"/proc/{pid}/environ", secret),
        "process_mem": lambda: _proc_memory(decoys),
        "process_vm_readv": lambda: _vm_readv(decoys),
        "process_fd": lambda: bool(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
        "ptrace": lambda: _ptrace(decoys),
        "pidfd_getfd": lambda: _pidfd_getfd(decoys),
        "signal": lambda: _kill_victim(decoys),
        "processes_visible": lambda: _sees_process(decoys),
        "session_key": lambda: _key(decoys),
        "host_etc": lambda: _file("/etc/passwd", "root"),
        "sysctl_write": lambda: _opens_for_writing("/proc/sys/kernel/core_pattern"),
        "system_write": lambda: _creates(f"/usr/{decoys['marker']}"),
        "venv_write": lambda: _creates(f"{decoys['venv']}/{decoys['marker']}.pth"),
        "mount": lambda: _in_child(_mounts),
        "block_device": lambda: _opens_device(decoys),
        "tcp_host": lambda: _connect(socket.AF_INET, (decoys["address_of_host"], decoys["port"]), secret),
        "nested_userns": lambda: _in_child(_new_user_namespace),
        "vsock": lambda: _makes_socket(_AF_VSOCK),
        "netlink": lambda: _makes_socket(_AF_NETLINK),
        "io_uring": lambda: _reaches_kernel("io_uring_setup", 1, ctypes.create_string_buffer(120)),
        "userfaultfd": lambda: _reaches_kernel("userfaultfd", 1),
        "tiocsti": _tiocsti,
        "capabilities": lambda: int(_status("CapEff"), 16) != 0,
        "no_new_privs": lambda: _status("NoNewPrivs") != "1",
        "seccomp": lambda: _status("Seccomp") != "2",
        "daemon": lambda: _leave_daemon(decoys),
    }


def _count_forks() -> int:
    children = []
    try:
        for _ in range(_FORK_TRIES):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    except OSError:
        pass
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(children)


def _fill(folder: str, file_bytes: int, total: int) -> int:
    """Bytes that could be written to new files of at most `file_bytes` in `folder`, up to `total`."""
    written, block = 0, b"x" * (1 << 16)
    names: list[str] = []
    try:
        while written < total:
            names.append(f"{folder}/fill-{len(names)}")
            with open(names[-1], "wb", buffering=0) as file:  # noqa: PTH123
                start = written
                while written < total and written - start < file_bytes:
                    written += file.write(block)
    except OSError:
        pass
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
    return written


def _eat_memory(total: int) -> int:
    """Bytes that a child could touch, up to `total`; it holds them a moment, so that a sampling watch sees them."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            area = mmap.mmap(-1, total)
            for _ in range(0, total, _CHUNK):
                area.write(b"x" * min(_CHUNK, total - area.tell()))
                os.write(write_end, b"x")
            time.sleep(1.0)
        finally:
            os._exit(0)
    os.close(write_end)
    chunks = 0
    while data := os.read(read_end, 4096):
        chunks += len(data)
    os.waitpid(pid, 0)
    return chunks * _CHUNK


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the decoys, try everything, answer."""
    decoys = json.loads(sys.stdin.readline())
    if decoys["mode"] == "escapes":
        escaped = {}
        for name, attempt in escape_rows(decoys).items():
            try:
                escaped[name] = bool(attempt())
            except OSError:
                escaped[name] = False
        _answer({"escaped": escaped})
        return
    sizes = {folder: _fill(folder, decoys["file_bytes"], decoys["disk_bytes"]) for folder in decoys["folders"]}
    one_file = _fill("/tmp", decoys["disk_bytes"], decoys["disk_bytes"])
    _answer({"processes": _count_forks(), "folders": sizes, "one_file": one_file})
    _answer({"memory": _eat_memory(decoys["memory_bytes"])})


if __name__ == "__main__":
    main()
