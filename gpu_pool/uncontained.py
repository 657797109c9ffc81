"""A child process without a sandbox: for a user who has none and said `--allow-unsandboxed`.

It offers what a worker needs of a sandbox and promises none of its protection. Its grade is C, and records of its runs
are marked unverified.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import IO


class Uncontained:
    """A process in a session of its own, ended with its process group."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], output: IO[bytes] | None = None) -> None:
        """With `output` all that it prints goes there and it reads nothing; otherwise pipes connect it."""
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if output is None else subprocess.DEVNULL,
            stdout=output or subprocess.PIPE,
            stderr=output or subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", **env},
            start_new_session=True,
        )
        self.stdin: IO[bytes] | None = self._popen.stdin
        self.stdout: IO[bytes] | None = self._popen.stdout
        self.stderr: IO[bytes] | None = self._popen.stderr

    def poll(self) -> int | None:
        """The exit status, or `None` while it runs."""
        return self._popen.poll()

    def kill(self) -> None:
        """Kill its process group; what left the group survives."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def oom_killed(self) -> bool:
        """Unknown without a control group."""
        return False
