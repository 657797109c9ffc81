"""Campaigns as real processes: `scripts/run_campaign.py` in a session of its own, on a Ray cluster of its own.

Every process that is signalled here is a descendant of a driver that this module started, known by pid and time of
creation: no cluster of anybody else is joined, and no process of anybody else is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from actors.observer import verify_run
from cluster.journal import Event, read_events
from cluster.names import RunPaths
from cluster.store import open_readonly

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "run_campaign.py"
DIRECTIONS = {
    "elicitation": "Unsupervised elicitation: what does the strong model already believe before it sees a label?",
    "reweighting": "Data reweighting: some weak labels deserve more trust than others.",
}
DEATH_S = 30.0
"""Within this time everything that hung on a killed cluster has died by itself."""


def small_config(directory: Path, *, secret_world: bool = False) -> Path:
    """A quickstart of two researchers with few seeds: a minute or two on two cores once the models are cached.

    Only with a `secret_world` are models pretrained in every campaign, as the quickstart does.
    """
    path = directory / "small.yaml"
    lines = [f"    - {{id: {name}, text: {text!r}}}" for name, text in DIRECTIONS.items()]
    path.write_text(
        "base: quickstart\n"
        "preset: small\n"
        "researchers:\n  directions:\n" + "\n".join(lines) + "\n"
        "scoring:\n  {dev_seeds: 1, board_seeds: 2, seal_seeds: 2, finalists: 1, seeds_per_lease: 2, "
        f"disguise: {str(secret_world).lower()}}}\n"
        "research: {minutes: 0.4}\n"
        "pool: {logical_gpus: 2}\n"
    )
    return path


@contextmanager
def ray_home() -> Iterator[Path]:
    """A directory for a Ray cluster of the test's own; its path is short, as those of Unix sockets must be."""
    path = Path(tempfile.mkdtemp(prefix="aar-it-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run_refused(*arguments: str) -> tuple[int, str]:
    """Exit status and standard error of a command that is expected to end before Ray starts."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


def run_script(name: str, *arguments: str, home: Path, seconds: float) -> tuple[int, str]:
    """Exit status and output of `scripts/<name>.py`, which starts a Ray of its own under `home` if it wants one."""
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": str(home)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=seconds, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition. Raises `AssertionError` with `what` when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


class Campaign:
    """A driver that runs, its run directory and its processes. As a context it leaves no process behind."""

    def __init__(
        self,
        runs: Path,
        name: str,
        home: Path,
        *arguments: str,
        program: Sequence[str] = (str(SCRIPT),),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start `run_campaign.py --runs-dir RUNS --name NAME ARGUMENTS`, or another `program` that takes the same, with
        more `variables` in its environment; its output goes to `<runs>/<name>.log`.
        """
        self.run_dir = runs / name
        self._log = runs / f"{name}.log"
        command = [sys.executable, *program, "--runs-dir", str(runs), "--name", name, *arguments]
        environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": str(home), **(variables or {})}
        runs.mkdir(exist_ok=True)
        with self._log.open("a") as log:
            self._driver = psutil.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._started: set[psutil.Process] = set()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_cluster()

    def processes(self) -> list[psutil.Process]:
        """The driver's living descendants."""
        try:
            found: list[psutil.Process] = self._driver.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._started.update(found)
        return found

    def offices(self, title: str) -> list[psutil.Process]:
        """The processes of an actor's class, by the title that Ray gives them, e.g. `ray::SlotActor.run`."""
        return [p for p in self.processes() if _command(p).split(" ")[0].split(".")[0] == f"ray::{title}"]

    def kill_office(self, title: str, patience_s: float = 60.0) -> None:
        """`kill -9` of the oldest process of an actor's class; returns when Ray has put another in its place."""
        until(lambda: bool(self.offices(title)), patience_s, f"a process of {title}")
        before = sorted(self.offices(title), key=psutil.Process.create_time)
        before[0].kill()
        until(
            lambda: any(process not in before for process in self.offices(title)),
            patience_s,
            f"a successor of {title}\n{self.output()}",
        )

    def kill_cluster(self) -> list[psutil.Process]:
        """`kill -9` of the driver and of all of Ray below it; what has not died of that is killed and returned."""
        self.processes()
        of_ray = [process for process in self._started if _of_ray(process)]
        if self._driver.poll() is None:
            self._driver.kill()
        for process in of_ray:
            _kill(process)
        self._driver.wait(timeout=DEATH_S)
        return self.survivors()

    def survivors(self) -> list[psutil.Process]:
        """Processes that this campaign was seen to run and that do not end by themselves in time; they are killed."""
        _, alive = psutil.wait_procs(list(self._started), timeout=DEATH_S)
        for process in alive:
            _kill(process)
        return list(alive)

    @property
    def driver(self) -> psutil.Process | None:
        """The driver, while it runs."""
        return self._driver if self._driver.poll() is None else None

    def wait(self, seconds: float) -> int:
        """The exit status of the driver. Raises `AssertionError` with its output when it does not end."""
        try:
            return int(self._driver.wait(timeout=seconds))
        except psutil.TimeoutExpired:
            raise AssertionError(f"the campaign did not end within {seconds:g} s\n{self.output()}") from None

    def output(self) -> str:
        """The last of what the driver wrote."""
        return self._log.read_text(errors="replace")[-4000:]

    def until_phase(self, phase: str, seconds: float) -> None:
        """Wait until the director's journal tells that a phase has begun."""
        self._until(lambda: any(e.payload["phase"] == phase for e in self.events("director", "phase")), seconds, phase)

    def until_events(self, store: str, kind: str, count: int, seconds: float) -> None:
        """Wait until the journal of a store holds so many events of a kind."""
        self._until(lambda: len(self.events(store, kind)) >= count, seconds, f"{count} {kind} of {store}")

    def _until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        def reached() -> bool:
            assert self._driver.poll() is None or condition(), f"ended before {what}\n{self.output()}"
            return condition()

        until(reached, seconds, f"{what}\n{self.output()}")

    def events(self, store: str, kind: str | None = None) -> list[Event]:
        """The events of a journal, whether or not somebody writes it."""
        path = RunPaths(self.run_dir).databases().get(store)
        if path is None:
            return []
        db = open_readonly(path)
        try:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone() is None:
                return []
            return [event for event in read_events(db) if kind is None or event.kind == kind]
        finally:
            db.close()

    def journals(self) -> dict[str, list[str]]:
        """The hashes of all events of every journal."""
        return {name: [e.hash for e in self.events(name)] for name in RunPaths(self.run_dir).databases()}

    def assert_sound(self) -> None:
        """Verified, every lease ended once, every reservation ended once, no record or post twice, none missing."""
        report = verify_run(self.run_dir)
        assert report.ok, report.text()
        requested = Counter(e.payload["request_id"] for e in self.events("scheduler", "lease_requested"))
        ended = Counter(e.payload["request_id"] for e in self.events("scheduler", "lease_ended"))
        assert requested == ended
        assert set(requested.values()) == {1}
        reserved = Counter(e.payload["key"] for e in self.events("scheduler", "reserved"))
        closed = [*self.events("scheduler", "settled"), *self.events("scheduler", "released")]
        assert Counter(e.payload["key"] for e in closed) == reserved
        assert set(reserved.values()) == {1}
        records = [e.payload for e in self.events("evaluator", "record")]
        assert _once((r["code_hash"], r["tier"], r["domain"]) for r in records if r["code_hash"])
        assert _once((r["method"], r["tier"], r["domain"]) for r in records if not r["code_hash"])
        taken = [e.payload["submission"] for e in self.events("evaluator", "submission")]
        answered = [e.payload["submission"] for e in self.events("evaluator", "submission_answered")]
        assert _once(taken)
        assert sorted(taken) == sorted(answered)
        summary = json.loads(RunPaths(self.run_dir).summary.read_text())
        assert summary["totals"]["answers"] == len(taken), "every counted answer is charged once"
        posts = [e.payload["seq"] for e in self.events("forum", "post")]
        assert posts == list(range(1, len(posts) + 1))


def _once(keys: Iterable[object]) -> bool:
    return all(count == 1 for count in Counter(keys).values())


def _command(process: psutil.Process) -> str:
    """The command line; empty when the process is gone."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _of_ray(process: psutil.Process) -> bool:
    """Ray's own processes and its actors, not the sandboxes that hang on a slot."""
    line = _command(process)
    return line.startswith(("ray::", "ray-dashboard")) or "/site-packages/ray/" in line or "'ray." in line


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
