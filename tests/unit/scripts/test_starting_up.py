"""Starting in the places where people start: it works, or it is one line, and what a failed start made is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.config import load_config
from cluster.errors import AarError
from scripts import run_campaign

ROOT = Path(__file__).resolve().parents[3]
BARE = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "OMP_NUM_THREADS": "1",
}
NOBODY = ("bwrap", "--dev-bind", "/", "/", "--unshare-user", "--uid", "12345", "--gid", "12345", "--")
ASK = """
import getpass, pathlib, sys, tempfile
from cluster.start import prepare
prepare()
home = pathlib.Path.home()
(home / "written").write_text("x")
print(getpass.getuser(), tempfile.gettempdir(), home, oct(home.stat().st_mode & 0o777), "\\xe9\\u2028")
"""


def python(*arguments: str, env: dict[str, str] | None = None, as_nobody: bool = False, **more: Any) -> Any:
    """A fresh interpreter at the root of the repository, in a bare environment with `env` added."""
    command = [*(NOBODY if as_nobody else ()), sys.executable, *arguments]
    taken = {"capture_output": True, "text": True, "timeout": 300, **more}
    return subprocess.run(command, cwd=ROOT, env={**BARE, **(env or {})}, check=False, **taken)


def can_be_nobody() -> bool:
    return shutil.which("bwrap") is not None and subprocess.run([*NOBODY, "true"], check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not can_be_nobody(), reason="no user namespaces here")


@needs_namespaces
@pytest.mark.parametrize("home", [None, "/nonexistent", "/proc", "relative"])
def test_a_user_without_name_or_home_has_both(home: str | None) -> None:
    done = python("-c", ASK, env={} if home is None else {"HOME": home}, as_nobody=True)
    assert (done.returncode, done.stderr) == (0, "")
    user, _, place, mode, text = done.stdout.split()
    assert (user, mode) == ("uid-12345", "0o700")
    assert "aar-home-12345" in place
    assert text == "\\xe9\\u2028"


@needs_namespaces
@pytest.mark.parametrize("script", ["run_campaign", "run_w2s", "score_method", "verify", "compare", "transcript"])
def test_scripts_say_what_they_are_for_wherever_they_are_started(script: str) -> None:
    done = python(
        f"scripts/{script}.py", "--help", env={"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}, as_nobody=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_is_not_taken_by_a_file(closed: str, tmp_path: Path) -> None:
    code = (
        "from cluster.start import prepare; prepare(); import sys; file = open(sys.argv[1], 'w'); "
        "print('out'); print('err', file=sys.stderr); file.write(str(file.fileno() > 2))"
    )
    shell = f'"$0" -c "$1" "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, code, str(tmp_path / "f")], cwd=ROOT, env=BARE, check=False, timeout=120
    )
    assert done.returncode == 0
    assert (tmp_path / "f").read_text(encoding="utf-8") == "True"


def test_a_home_that_another_user_laid_out_is_not_taken(tmp_path: Path) -> None:
    trap = tmp_path / f"aar-home-{os.getuid()}"
    trap.symlink_to(tmp_path)
    done = python("-c", ASK, env={"HOME": "/nonexistent", "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    place = Path(done.stdout.split()[2])
    assert place != trap
    assert not place.is_symlink()


def start(runs: Path | str, *more: str) -> int:
    return run_campaign.main(["--preset", "quickstart", "--runs-dir", str(runs), *more])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A start that gets as far as the campaign itself."""
    monkeypatch.setattr(run_campaign, "available", lambda: type("Fine", (), {"ok": True})())
    return monkeypatch


@pytest.fixture(autouse=True)
def _signals_as_before() -> Any:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ("file", "is a file"),
        ("file/below", "is a file"),
        ("/proc/nothing", "GiB are free"),
        ("line\nbreak", "without line breaks"),
        ("sur\udce4rogate", "locale"),
    ],
)
def test_a_place_that_cannot_hold_campaigns_is_one_line(
    runs: str, said: str, tmp_path: Path, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert start(tmp_path / runs) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run_campaign: ")
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("runs", ["a b", "größe", "up/../runs", "deep/er/runs"])
def test_a_start_that_fails_leaves_nothing(
    runs: str, tmp_path: Path, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise AarError("Ray does not start")

    machine.setattr(run_campaign, "campaign", fails)
    assert start(tmp_path / runs, "--name", "mine") == 1
    assert capsys.readouterr().err == "run_campaign: Ray does not start\n"
    assert not list(tmp_path.rglob("mine"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    machine.setattr(run_campaign, "campaign", full)
    assert start(tmp_path / runs, "--name", "mine") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.rglob("mine")), "the name is free again, also for the second failure"


def test_a_name_that_another_start_has_just_taken_stays_theirs(
    tmp_path: Path, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "mine"
    theirs.mkdir()
    (theirs / "config.yaml").write_text("theirs", encoding="utf-8")
    exists = Path.exists
    machine.setattr(Path, "exists", lambda path: path != theirs and exists(path))
    assert start(tmp_path, "--name", "mine") == 2
    assert "taken a moment ago" in capsys.readouterr().err
    assert (theirs / "config.yaml").read_text(encoding="utf-8") == "theirs"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_with_its_status_and_how_to_continue(
    number: signal.Signals, status: int, tmp_path: Path, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = []

    def runs(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one while it ends changes nothing
            ended.append(True)

    machine.setattr(run_campaign, "campaign", runs)
    assert start(tmp_path / "my runs", "--name", "mine") == status
    said = capsys.readouterr().err
    assert f"--resume --name mine --runs-dir '{tmp_path}/my runs'" in said
    assert ended == [True]
    assert (tmp_path / "my runs" / "mine" / "config.yaml").is_file()


def test_what_the_caller_ignores_stays_ignored(tmp_path: Path, machine: Any) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    machine.setattr(run_campaign, "campaign", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    machine.setattr(run_campaign, "finish", lambda _: 0)
    assert start(tmp_path / "runs") == 0


def test_the_stored_configuration_is_the_one_that_started(tmp_path: Path, machine: Any) -> None:
    seen: list[Any] = []
    machine.setattr(run_campaign, "campaign", lambda run_dir, config, watch: seen.append((run_dir, config)))
    machine.setattr(run_campaign, "finish", lambda _: 0)
    assert start(tmp_path / "runs", "--set", "budget.campaign.usd=none", "--name", "x") == 0
    ((run_dir, config),) = seen
    assert load_config(file=run_dir / "config.yaml") == config
    assert config.budget.campaign.usd is None
