"""Where the API key comes from, and the refusal of one that others could read.

A key is in a file of mode 0600 (`brain.key_file`, such as a mounted secret) or, when none is named, in
ANTHROPIC_API_KEY of the driver's environment. The driver writes that one to a file of its own outside of the run
directory, starts itself anew without the variable, so that no process of the campaign has it in its environment, and
deletes the file at the end. Only the gateway reads a key file; the key is in no argument of an actor and in no
configuration.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from cluster.config import Brain
from cluster.errors import AarError

VARIABLE = "ANTHROPIC_API_KEY"
SECRETS = (VARIABLE, "ANTHROPIC_AUTH_TOKEN")
"""Variables that hold a key of the vendor; none of them is handed on to a campaign."""
_PIPE = "AAR_KEY_PIPE"
MOST_BYTES = 4096
_PR_SET_DUMPABLE = 4


class KeyFileError(AarError):
    """A key file that cannot be used; the text says what to do."""


def read_key(path: Path) -> str:
    """The key in a file. Raises `KeyFileError`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise KeyFileError(
            f"the key file {path} cannot be read ({error.strerror}); expected a file with the key"
        ) from None
    if not stat.S_ISREG(mode):
        raise KeyFileError(f"the key file {path} is no regular file")
    if mode & 0o077:
        raise KeyFileError(
            f"the key file {path} has mode {stat.S_IMODE(mode):04o}, so that others can read it; expected 0600: "
            f"chmod 600 {path} (and make a new key, if others may have seen this one)"
        )
    key = data.decode("ascii", "replace").strip()
    if len(data) > MOST_BYTES or not key or not key.isprintable() or " " in key or "\ufffd" in key:
        raise KeyFileError(f"the key file {path} holds no key: expected one line of printable characters")
    return key


def handed_path(run_dir: Path) -> Path:
    """Where the driver of a campaign puts a key from its environment: not in the run directory, which may be shared."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    name = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
    return Path(base) / f"aar-keys-{os.getuid()}" / f"{run_dir.name}-{name}"


def hand_over(key: str, run_dir: Path) -> Path:
    """Write a key to the place that `key_of` looks at. Raises `KeyFileError` when others can write there."""
    path = handed_path(run_dir)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = path.parent.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise KeyFileError(f"{path.parent} is not a directory of this user alone; remove it, or use brain.key_file")
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(key)
    return path


def key_of(brain: Brain, run_dir: Path | None) -> str | None:
    """The key that the gateway of the campaign in `run_dir` uses; `None` where an endpoint needs none.

    Raises `KeyFileError` when there must be one and it cannot be used.
    """
    if brain.key_file is not None:
        return read_key(Path(brain.key_file))
    if run_dir is not None and handed_path(run_dir).exists():
        return read_key(handed_path(run_dir))
    if brain.kind == "claude" and brain.base_url is None:
        raise KeyFileError(
            f"no API key: write it to a file, chmod 600 FILE, and give --set brain.key_file=FILE "
            f"(or start the driver with {VARIABLE} set)"
        )
    return None


def take_from_environment() -> str | None:
    """The key that this driver was started with, which is in nobody's environment any more.

    A process cannot take a variable out of what `/proc` shows of it. So it starts itself anew without the variable, and
    the key goes through a pipe. Call it before anything else has begun.
    """
    pipe = os.environ.pop(_PIPE, None)
    if pipe is not None:
        with os.fdopen(int(pipe), "r") as file:
            return file.read() or None
    if any(name in os.environ for name in SECRETS):
        _start_anew()
    return None


def _start_anew() -> NoReturn:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write(os.environ.get(VARIABLE, "")[:MOST_BYTES])
    os.set_inheritable(reading, True)
    clean = {name: value for name, value in os.environ.items() if name not in SECRETS}
    os.execve(sys.executable, sys.orig_argv, {**clean, _PIPE: str(reading)})


def shut_memory() -> None:
    """No other process of this user may read this one's memory, and no core is dumped. Linux; best effort."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
