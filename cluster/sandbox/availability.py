"""Whether sandboxes work here, found out by starting one; and if not, what a person can do about it."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster.sandbox.errors import SandboxError
from cluster.sandbox.process import find_bwrap, spawn
from cluster.sandbox.spec import MIB, Limits, SandboxSpec

_MINIMUM = (0, 8)
_INSTALL = (
    ("apt-get", "apt-get install bubblewrap libseccomp2"),
    ("dnf", "dnf install bubblewrap libseccomp"),
    ("yum", "yum install bubblewrap libseccomp"),
    ("pacman", "pacman -S bubblewrap libseccomp"),
    ("apk", "apk add bubblewrap libseccomp util-linux-misc"),
    ("zypper", "zypper install bubblewrap libseccomp2"),
)
_CONTAINER = (
    "allow user namespaces in the container (Docker: --security-opt seccomp=unconfined, or a profile that allows clone "
    "with CLONE_NEWUSER)"
)
_APPARMOR = (
    "install an AppArmor profile for bwrap with the rule 'userns,' (Ubuntu 24.04 and later: package apparmor-profiles, "
    "then apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict), or "
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
)
_MASKED_PROC = (
    "run the container with an unmasked /proc (Docker: --security-opt systempaths=unconfined; Kubernetes: "
    "procMount: Unmasked together with hostUsers: false)"
)
_REACHABLE = "put the environment and the runs below a directory that every user may enter, or run as root"
_BY_HAND = "try by hand: bwrap --unshare-user --unshare-pid --unshare-net --ro-bind / / --proc /proc true"
_SYSCTLS = (
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", _APPARMOR),
)
_SYMPTOMS = (
    (r"mount proc", _MASKED_PROC),
    (r"loopback|RTM_NEWADDR", _APPARMOR),
    (r"libseccomp|seccomp filter", "install libseccomp"),
    (r"source path|bind source", _REACHABLE),
    (r"new namespace|Operation not permitted", _CONTAINER),
)


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a sandbox can be started here; else why not, and what to do."""

    ok: bool
    reason: str
    remedy: str
    bwrap_version: str


def bwrap_version() -> str:
    """The version of the bubblewrap that `spawn` uses, such as "0.8.0"; empty when there is none."""
    bwrap = find_bwrap()
    if bwrap is None:
        return ""
    try:
        found = subprocess.run([bwrap, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"\d+(\.\d+)+", found)
    return match[0] if match else ""


def install_command() -> str:
    """The command that installs bubblewrap with this system's package manager."""
    for tool, line in _INSTALL:
        if shutil.which(tool):
            return line
    return "install bubblewrap (https://github.com/containers/bubblewrap) and libseccomp"


def remedy_for(message: str) -> str:
    """What to do about an error message of bwrap or the launcher, from the message and this machine's settings."""
    for path, bad, remedy in _SYSCTLS:
        try:
            if Path(path).read_text().strip() == bad:
                return remedy
        except OSError:
            continue
    for pattern, remedy in _SYMPTOMS:
        if re.search(pattern, message):
            return remedy
    return _BY_HAND


def _kernel() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def available() -> Availability:
    """Start the smallest sandbox and report. Takes some 50 ms; call it once per start of a program."""
    if platform.system() != "Linux" or _kernel() < (5, 6):
        return Availability(False, f"{platform.system()} {platform.release()}", "use Linux 5.6 or later", "")
    if find_bwrap() is None:
        return Availability(False, "bubblewrap (bwrap) is not installed", install_command(), "")
    version = bwrap_version()
    if tuple(int(part) for part in version.split(".") if part)[:2] < _MINIMUM:
        reason = f"bubblewrap {version or 'of unknown version'} is too old"
        return Availability(False, reason, "install bubblewrap 0.8.0 or later", version)
    limits = Limits(memory_bytes=128 * MIB, processes=32)
    try:
        with spawn(SandboxSpec(argv=("true",), limits=limits)) as sandbox:
            _, stderr = sandbox.communicate(timeout=30)
            code, message = sandbox.returncode, stderr.decode(errors="replace").strip()
    except (SandboxError, subprocess.TimeoutExpired) as error:
        return Availability(False, str(error), remedy_for(str(error)), version)
    if code != 0:
        return Availability(False, message or f"bwrap ended with status {code}", remedy_for(message), version)
    return Availability(True, "", "", version)
