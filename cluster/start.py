"""What a process needs before anything else: open standard streams, a home, a user name, a temporary folder.

Imports the standard library alone and is called by every script before its other imports, because some of them ask at
once (torch for the user's name, Ray for the home). Promises: afterwards `Path.home()`, `getpass.getuser()` and
`tempfile` answer, for users without a passwd entry and for folders that cannot be written to, too; nothing that is
opened takes the place of a closed standard stream; nobody but the user can write where a substitute stands.
"""

from __future__ import annotations

import os
import pwd
import signal
import stat
import sys
import tempfile
from pathlib import Path
from types import FrameType

_USERS = ("LOGNAME", "USER", "LNAME", "USERNAME")
UMASK = 0o022
"""Sandboxes read libraries and caches as another user; what is private says so by its own mode."""


class StopSignal(SystemExit):
    """SIGTERM, SIGHUP: the process ends by way of its `finally` blocks, with status 128 plus the signal."""


def prepare() -> None:
    """Make this process fit to start. Ends it with one line where that is impossible."""
    _open_streams()
    _name_user()
    try:
        _find_temporary()
        _find_home()
    except OSError as error:
        sys.exit(
            f"{Path(sys.argv[0]).stem}: {error.strerror or error}; expected a folder that you can write to (TMPDIR)"
        )


def stop_on_signals() -> None:
    """Raise `StopSignal` at SIGTERM and SIGHUP, the first time; what the caller ignores (nohup) stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    for again in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(again, signal.SIG_IGN)  # the end is under way, and has a time limit of its own
    raise StopSignal(128 + number)


def _open_streams() -> None:
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _name_user() -> None:
    if any(os.environ.get(name) for name in _USERS):
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["USER"] = f"uid-{os.getuid()}"


def _find_temporary() -> None:
    asked = os.environ.get("TMPDIR")
    place = tempfile.gettempdir()  # the first that can be written to; the working folder when there is no other
    if Path(place) == Path.cwd():
        raise FileNotFoundError(2, "no temporary folder can be written to (TMPDIR, /tmp, /var/tmp)")
    if asked and not _writable(Path(asked)):
        sys.stderr.write(f"TMPDIR: {asked!r} cannot be written to; using {place}\n")
        os.environ["TMPDIR"] = place


def _find_home() -> None:
    try:
        home = Path.home()
    except (RuntimeError, KeyError):  # no HOME, no passwd entry
        home = Path("/")
    if home.is_absolute() and _writable(home) and home != Path("/"):
        os.environ["HOME"] = str(home)
        return
    token = home / ".ray" / "auth_token"
    if "RAY_AUTH_TOKEN_PATH" not in os.environ and os.access(token, os.R_OK):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)  # of the cluster that this user has started
    os.environ["HOME"] = str(_own(Path(tempfile.gettempdir()) / f"aar-home-{os.getuid()}"))


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _own(folder: Path) -> Path:
    """The folder, which is this user's alone; one with another name where somebody took it."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            return Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    return folder
