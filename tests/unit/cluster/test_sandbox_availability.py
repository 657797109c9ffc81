from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.sandbox import SandboxError, SandboxSpec, availability, available, process, spawn
from cluster.sandbox.availability import install_command, remedy_for
from tests.unit.cluster.sandbox_kit import needs_root, needs_sandbox


@needs_sandbox
def test_a_working_machine_is_told_with_its_version() -> None:
    state = available()
    assert state.ok
    assert state.bwrap_version.split(".")[0].isdigit()


def test_without_bubblewrap_the_remedy_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "find_bwrap", lambda: None)
    state = available()
    assert not state.ok
    assert "bubblewrap" in state.reason
    assert "bubblewrap" in state.remedy


def test_spawn_without_bubblewrap_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find_bwrap", lambda: None)
    with pytest.raises(SandboxError, match="not installed"):
        spawn(SandboxSpec(argv=("true",)))


@pytest.mark.parametrize(("tool", "package"), [
    ("apt-get", "apt-get install"), ("dnf", "dnf install"), ("pacman", "pacman -S"), ("apk", "apk add"),
])  # fmt: skip
def test_each_package_manager_has_its_command(monkeypatch: pytest.MonkeyPatch, tool: str, package: str) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name if name == tool else None)
    assert install_command().startswith(package)


@pytest.mark.parametrize(("message", "word"), [
    ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "procMount"),
    ("bwrap: No permissions to create new namespace, likely because", "seccomp"),
    ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "AppArmor"),
    ("bwrap: Can't find source path /home/x: Permission denied", "every user may enter"),
    ("something else", "bwrap --unshare-user"),
])  # fmt: skip
def test_known_messages_have_a_remedy(monkeypatch: pytest.MonkeyPatch, message: str, word: str) -> None:
    monkeypatch.setattr(availability, "_SYSCTLS", ())
    assert word in remedy_for(message)


def test_a_setting_that_forbids_namespaces_is_named_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "setting").write_text("0\n")
    monkeypatch.setattr(availability, "_SYSCTLS", ((str(tmp_path / "setting"), "0", "sysctl -w it=1"),))
    assert remedy_for("anything") == "sysctl -w it=1"


@needs_sandbox
@needs_root
def test_a_machine_that_refuses_user_namespaces_is_told_from_one_without_bubblewrap() -> None:
    """In an own user namespace the number of further ones can be set to none without touching the machine."""
    root = str(Path(__file__).parents[3])
    program = "from cluster.sandbox import available; a = available(); print(a.ok, a.bwrap_version != '', a.remedy)"
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" -B -c "$1"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, program]
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False True sysctl -w user.max_user_namespaces=15000", done.stderr
