"""What one user of a sandbox can leave for the next one, tried for real; a program of its own, as `probe.py` is.

As a program it reads one JSON line from stdin and answers in one: mode `leave` leaves all that it can under the name
`marker`, `find` looks for it, `both` does one after the other, as the control that must find everything, and takes away
what would outlive it. As a method (`method_source`) it does the same in a step. It touches only what it made itself;
of other processes it sets what they have already: whether that is allowed is the finding.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_libc.shmdt.argtypes = (ctypes.c_void_p,)
_CREATE, _REMOVE, _BYTES = 0o1000, 0, 4096
_PR_SET_NAME = 15
_X86 = platform.machine() == "x86_64"
_IOPRIO_SET, _IOPRIO_GET = (251, 252) if _X86 else (30, 31)
_ADD_KEY, _KEYCTL = (248, 250) if _X86 else (217, 219)
_KEYCTL_SEARCH, _USER_KEYRING, _SESSION_KEYRING = 10, -4, -3
_MQ_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
_F_GETPIPE_SZ = 1032
_DAEMON_SECONDS = 20.0


def _key(marker: str) -> int:
    """A System V key from the marker's hexadecimal end."""
    return int(marker[-7:], 16) + 1


def _ok(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _leave_shm(marker: str) -> None:
    segment = _ok(_libc.shmget(_key(marker), _BYTES, _CREATE | 0o666))
    address = _libc.shmat(segment, None, 0)
    ctypes.memmove(address, marker.encode(), len(marker))
    _libc.shmdt(address)


def _leave_file(folder: str) -> Callable[[str], None]:
    def leave(marker: str) -> None:
        with open(f"{folder}/{marker}", "w") as file:  # noqa: PTH123
            file.write(marker)

    return leave


def _leave_attribute(folder: str) -> Callable[[str], None]:
    return lambda marker: os.setxattr(folder, f"user.{marker}", marker.encode())


def _leave_key(ring: int) -> Callable[[str], int]:
    def leave(marker: str) -> int:
        word = marker.encode()
        return _ok(int(_libc.syscall(_ADD_KEY, b"user", word, word, len(word), ring)))

    return leave


def _find_key(ring: int) -> Callable[[str], bool]:
    return lambda marker: int(_libc.syscall(_KEYCTL, _KEYCTL_SEARCH, ring, b"user", marker.encode(), 0)) >= 0


def _leave_daemon(marker: str) -> None:
    """A process in a session of its own that listens on an abstract socket."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            _libc.prctl(_PR_SET_NAME, marker[-15:].encode(), 0, 0, 0)
            with contextlib.suppress(OSError):
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(f"\0{marker}")
                listener.listen()
            os.write(write_end, b"x")
            null = os.open("/dev/null", os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            os.closerange(max(3, write_end), write_end + 1)
            time.sleep(_DAEMON_SECONDS)
        os._exit(0)
    os.wait()
    os.read(read_end, 1)
    os.close(read_end)
    os.close(write_end)


def _sees_daemon(marker: str) -> bool:
    return any(_name(pid) == marker[-15:] for pid in _visible())


def _connects(marker: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{marker}")
    return True


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


def _visible() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return []


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _has_attribute(folder: str) -> Callable[[str], bool]:
    return lambda marker: f"user.{marker}" in os.listxattr(folder)


def _folders(out: str) -> dict[str, str]:
    places = {"tmp": "/tmp", "home": os.environ.get("HOME", "/ws"), "memory": "/dev/shm", "output": out}
    return {name: place for name, place in places.items() if place}


def left(out: str) -> dict[str, tuple[Callable[[str], Any], Callable[[str], bool]]]:
    """By name: how something is left under a marker, and how it is found."""
    rows: dict[str, tuple[Callable[[str], Any], Callable[[str], bool]]] = {
        "sysv_memory": (_leave_shm, lambda m: int(_libc.shmget(_key(m), 0, 0)) >= 0),
        "sysv_semaphore": (lambda m: _ok(_libc.semget(_key(m), 1, _CREATE | 0o666)),
                           lambda m: int(_libc.semget(_key(m), 0, 0)) >= 0),
        "sysv_queue": (lambda m: _ok(_libc.msgget(_key(m), _CREATE | 0o666)),
                       lambda m: int(_libc.msgget(_key(m), 0)) >= 0),
        "posix_queue": (lambda m: _ok(_libc.mq_open(f"/{m}".encode(), _MQ_FLAGS, 0o666, None)),
                        lambda m: int(_libc.mq_open(f"/{m}".encode(), os.O_RDONLY | os.O_NONBLOCK)) >= 0),
        "user_key": (_leave_key(_USER_KEYRING), _find_key(_USER_KEYRING)),
        "session_key": (_leave_key(_SESSION_KEYRING), _find_key(_SESSION_KEYRING)),
        "process": (_leave_daemon, _sees_daemon),
        "abstract_socket": (lambda _: None, _connects),
    }  # fmt: skip
    for name, folder in _folders(out).items():
        rows[f"file_{name}"] = (_leave_file(folder), lambda m, folder=folder: _exists(f"{folder}/{m}"))  # type: ignore[misc]
        rows[f"attribute_{name}"] = (_leave_attribute(folder), _has_attribute(folder))
    return rows


def leave(marker: str, out: str = "") -> dict[str, bool]:
    """Leave everything; what could be left, by name."""
    done = {}
    for name, (action, _) in left(out).items():
        try:
            action(marker)
            done[name] = True
        except (OSError, AttributeError):  # a C library without the call
            done[name] = False
    return done


def find(marker: str, out: str = "") -> dict[str, bool]:
    """Look for everything that `leave` leaves; what is there, by name."""
    found = {}
    for name, (_, look) in left(out).items():
        try:
            found[name] = bool(look(marker))
        except (OSError, AttributeError):
            found[name] = False
    return found


def spoil(out: str = "") -> None:
    """Change whatever a process may change of itself and of the descriptors and folders that it was given."""
    os.umask(0o777)
    for stream in range(3):
        with contextlib.suppress(OSError):
            fcntl.fcntl(stream, fcntl.F_SETFL, fcntl.fcntl(stream, fcntl.F_GETFL) | os.O_NONBLOCK | os.O_APPEND)
        with contextlib.suppress(OSError):
            fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ if hasattr(fcntl, "F_SETPIPE_SZ") else 1031, 4096)
    for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_STACK):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(which, (64, resource.getrlimit(which)[1]))
    for change in (lambda: os.nice(5), lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
                   lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
                   lambda: _libc.syscall(_IOPRIO_SET, 1, 0, 3 << 13), lambda: _write("/proc/self/oom_score_adj", "900"),
                   lambda: _libc.personality(0x0040000), lambda: os.chmod(out or "/nowhere", 0)):  # fmt: skip  # noqa: PTH101
        with contextlib.suppress(OSError):
            change()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)


def state(out: str = "") -> dict[str, str]:
    """What a process finds itself with, by name; equal for two that begin alike."""
    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    umask = os.umask(0o022)
    os.umask(umask)
    found: dict[str, Any] = {
        "limits": [(name, resource.getrlimit(getattr(resource, name))) for name in limits],
        "umask": umask,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)),
        "scheduler": (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority),
        "io_priority": int(_libc.syscall(_IOPRIO_GET, 1, 0)),
        "personality": int(_libc.personality(0xFFFFFFFF)),
        "oom_score": _text("/proc/self/oom_score_adj"),
        "streams": [_stream(number) for number in range(3)],
        "processes": len(_visible()),
        "queues": [_text(f"/proc/sysvipc/{name}") for name in ("shm", "sem", "msg")],
        "environment": sorted(os.environ.items()),
        "folders": [_folder(place) for place in _folders(out).values()],
    }
    return {name: repr(value) for name, value in found.items()}


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read(1 << 16)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "")


def _stream(number: int) -> tuple[int, int]:
    try:
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        return flags, fcntl.fcntl(number, _F_GETPIPE_SZ)
    except OSError:
        return -1, -1


def _folder(place: str) -> tuple[Any, ...]:
    try:
        return os.stat(place).st_mode, sorted(os.listdir(place)), sorted(os.listxattr(place))  # noqa: PTH116, PTH208
    except OSError as error:
        return (error.errno,)


def reached() -> dict[str, bool]:
    """Which of its parents and neighbours a process may change, by what it may do: it sets what they have already."""
    own = os.getpid()
    others = sorted({pid for pid in (*_visible(), os.getppid()) if pid not in (0, own)})
    actions: dict[str, Callable[[int], Any]] = {
        "signal": lambda pid: os.kill(pid, 0),
        "limits": lambda pid: resource.prlimit(pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE)),
        "niceness": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid)),
        "affinity": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(pid)),
        "scheduler": lambda pid: os.sched_setscheduler(pid, os.sched_getscheduler(pid), os.sched_getparam(pid)),
        "io_priority": lambda pid: _ok(int(_libc.syscall(_IOPRIO_SET, 1, pid, _libc.syscall(_IOPRIO_GET, 1, pid)))),
        "memory": lambda pid: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
        "oom_score": lambda pid: os.close(os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY)),
        "descriptors": lambda pid: os.listdir(f"/proc/{pid}/fd"),  # noqa: PTH208
    }
    return {name: any(_succeeds(action, pid) for pid in others) for name, action in actions.items()}


def _succeeds(action: Callable[[int], Any], pid: int) -> bool:
    try:
        action(pid)
    except (OSError, ValueError):
        return False
    return True


def _take_away(marker: str) -> None:
    """What the control left outside any sandbox; its daemon is ended by whoever ran it, and ends by itself."""
    if (segment := _libc.shmget(_key(marker), 0, 0)) >= 0:
        _libc.shmctl(segment, _REMOVE, None)
    if (semaphore := _libc.semget(_key(marker), 0, 0)) >= 0:
        _libc.semctl(semaphore, 0, _REMOVE)
    if (queue := _libc.msgget(_key(marker), 0)) >= 0:
        _libc.msgctl(queue, _REMOVE, None)
    with contextlib.suppress(AttributeError):
        _libc.mq_unlink(f"/{marker}".encode())
    for folder in _folders("").values():
        with contextlib.suppress(OSError):
            os.unlink(f"{folder}/{marker}")  # noqa: PTH108
        with contextlib.suppress(OSError):
            os.removexattr(folder, f"user.{marker}")


def method_source(source: str) -> str:
    """This program as a method, from its own text; its order is `order.json` beside it, its answer a printed line.

    It does all when it is loaded, so that it needs no inputs.
    """
    return f"{source.rpartition('if __name__')[0]}\n{_AS_METHOD}"


_AS_METHOD = """
def _step(order, out):
    say = {"state": state(out), "found": find(order["marker"], out), "reached": reached()}
    if order["mode"] == "leave":
        say["left"] = leave(order["marker"], out)
    print(f"\\n{order['marker']} {json.dumps(say)}", flush=True)
    if order["mode"] == "leave":
        spoil(out)


_step(json.loads(open(f"{os.path.dirname(__file__)}/order.json").read()), "/out")
raise SystemExit("said all")
"""


def main() -> None:
    """Read the order, do it, answer."""
    order = json.loads(sys.stdin.readline())
    mode, marker, out = order["mode"], order["marker"], order.get("out", "")
    answer: dict[str, Any] = {"state": state(out)}
    if mode in ("leave", "both"):
        answer["left"] = leave(marker, out)
    if mode in ("find", "both"):
        answer["found"] = find(marker, out)
    if mode == "both":
        _take_away(marker)
    if mode == "leave":
        spoil(out)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
