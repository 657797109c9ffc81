from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.sandbox import python_binds


def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A virtual environment whose interpreter is reached over a second link, as with uv and pyenv."""
    base, venv = tmp_path / "home/python-3.11.7", tmp_path / "project/.venv"
    for folder in (base, venv):
        (folder / "bin").mkdir(parents=True)
    (base / "bin/python3.11").write_text("")
    (tmp_path / "home/python-3.11").symlink_to("python-3.11.7")
    (venv / "bin/python").symlink_to(tmp_path / "home/python-3.11/bin/python3.11")
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "home/python-3.11"))
    monkeypatch.setattr(sys, "base_exec_prefix", str(tmp_path / "home/python-3.11"))
    monkeypatch.setattr(sys, "executable", str(venv / "bin/python"))
    return base, venv


def test_the_environment_and_its_base_stand_at_their_own_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, venv = environment(tmp_path, monkeypatch)
    binds = {bind.inside: bind.host for bind in python_binds()}
    assert binds == {str(venv): str(venv), str(tmp_path / "home/python-3.11"): str(base), str(base): str(base)}


def test_a_system_interpreter_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"prefix": "/usr", "base_prefix": "/usr", "base_exec_prefix": "/usr"}.items():
        monkeypatch.setattr(sys, name, value)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert python_binds() == ()


def test_the_home_directory_itself_is_never_bound() -> None:
    assert all(Path(bind.host) not in (Path.home(), *Path.home().parents) for bind in python_binds())
