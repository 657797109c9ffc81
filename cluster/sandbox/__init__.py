"""Bubblewrap sandboxes: the only place where untrusted code runs.

`spawn(SandboxSpec(...))` starts one, `readback` takes files from it, `available()` says whether this machine can, and
`grade()` measures with a probe of escapes what a sandbox here is worth.
"""

from __future__ import annotations

from cluster.sandbox.availability import Availability, available, bwrap_version, install_command
from cluster.sandbox.confined import Confined, confinable, confine
from cluster.sandbox.errors import ReadbackError, SandboxError, SpecError
from cluster.sandbox.gpu import gpu_minors
from cluster.sandbox.grade import Grade, SpecFactory, grade, probe_hash
from cluster.sandbox.process import DEVNULL, PIPE, Sandboxed, spawn
from cluster.sandbox.python import python_binds
from cluster.sandbox.readback import readback, readback_to
from cluster.sandbox.seccomp import deny_exec, prepare_deny_exec
from cluster.sandbox.spec import FIRST_UID, MIB, Bind, Limits, SandboxSpec

__all__ = [
    "DEVNULL",
    "FIRST_UID",
    "MIB",
    "PIPE",
    "Availability",
    "Bind",
    "Confined",
    "Grade",
    "Limits",
    "ReadbackError",
    "SandboxError",
    "SandboxSpec",
    "Sandboxed",
    "SpecError",
    "SpecFactory",
    "available",
    "bwrap_version",
    "confinable",
    "confine",
    "deny_exec",
    "gpu_minors",
    "grade",
    "install_command",
    "prepare_deny_exec",
    "probe_hash",
    "python_binds",
    "readback",
    "readback_to",
    "spawn",
]
