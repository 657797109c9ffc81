"""Run a campaign from its configuration to its report, or resume one.

python scripts/run_campaign.py --preset quickstart
python scripts/run_campaign.py --config my.yaml --set research.minutes=30 --name tuesday
python scripts/run_campaign.py --resume --name tuesday
ray job submit --working-dir . -- python scripts/run_campaign.py --preset quickstart --runs-dir /shared/runs
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import StopSignal, prepare, stop_on_signals

prepare()  # before torch and Ray are imported, which ask for a home and a user

from actors.director.begun import check_begun, publish_key
from actors.director.closing import close_run
from actors.director.estimate import estimate
from actors.director.phases import Phase
from actors.evaluator.estimate import check_budget, sealing
from actors.gateway.keys import hand_over, handed_path, key_of, take_from_environment
from actors.gateway.replayer import as_recorded
from actors.gateway.startup_checks import check_brain
from actors.researcher.brains.llm.prompt import check_prompt
from cluster.authentication import set_authentication
from cluster.config import CampaignConfig, ConfigError, dump_config, load_config, load_stored
from cluster.errors import AarError
from cluster.names import RunPaths, campaign_name_fault
from cluster.observing import Guard
from cluster.sandbox import available, confinable
from cluster.store import open_readonly
from cluster.terminal import complain, run_script
from gpu_pool.weak_to_strong.methods import BASELINES

LIVE_EVERY_S = 2.0
LINE_EVERY_S = 15.0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", help="a shipped configuration (cluster/presets)")
    source.add_argument("--config", type=Path, help="a configuration file")
    parser.add_argument("--set", action="append", default=[], metavar="key.path=value", help="override one field")
    parser.add_argument("--name", help="name of the campaign; default: the preset's, with a number when it is taken")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where campaigns are kept (default: runs)")
    parser.add_argument("--resume", action="store_true", help="continue the campaign NAME from where it stands")
    parser.add_argument("--logical-gpus", type=int, help="this many logical slots instead of real GPUs")
    parser.add_argument("--estimate", action="store_true", help="say what the campaign will cost, and start nothing")
    parser.add_argument(
        "--allow-unsandboxed",
        action="store_true",
        help="run without a sandbox; every record is marked unverified",
    )
    args = parser.parse_args(argv)
    changes = args.preset or args.config or args.set or args.logical_gpus is not None or args.allow_unsandboxed
    if args.resume and (not args.name or changes):
        parser.error("--resume takes --name (and --runs-dir) alone: the configuration is the campaign's own")
    if not args.resume and not (args.preset or args.config):
        parser.error("give --preset NAME or --config FILE (or --resume --name NAME)")
    return args


def configuration(args: argparse.Namespace) -> CampaignConfig:
    if args.resume:
        stored = args.runs_dir / args.name / "config.yaml"
        if not stored.is_file():
            known = (
                ", ".join(sorted(path.parent.name for path in args.runs_dir.glob("*/config.yaml"))) or "none is there"
            )
            raise ConfigError(f"name: no campaign {args.name!r} in {args.runs_dir} to resume; expected one of: {known}")
        return load_stored(stored)
    overrides = list(args.set)
    if args.logical_gpus is not None:
        overrides.append(f"pool.logical_gpus={args.logical_gpus}")
    if args.allow_unsandboxed:
        overrides.append("allow_unsandboxed=true")
    return as_recorded(load_config(preset=args.preset, file=args.config, overrides=tuple(overrides)))


def directory(args: argparse.Namespace, config: CampaignConfig) -> Path:
    """The campaign's directory, made with its configuration unless it is resumed."""
    runs = runs_folder(args.runs_dir)
    if args.resume:
        return runs / str(args.name)
    name = args.name or config.preset
    fault = campaign_name_fault(name)
    if fault is not None:
        raise ConfigError(f"name: {name!r} is not valid; expected {fault}")
    number, made = 2, False
    target = runs / name
    try:
        while args.name is None and target.exists():
            target = runs / f"{name}-{number}"
            number += 1
        if target.exists():
            raise ConfigError(
                f"name: {name!r} is taken in {args.runs_dir}; expected a new name, or --resume --name {name}"
            )
        target.mkdir(parents=True, mode=0o755)
        made = True
        RunPaths(target).config.write_text(dump_config(config), encoding="utf-8")
    except FileExistsError:  # somebody else made it just now: it is theirs
        raise ConfigError(f"name: {target.name!r} was taken a moment ago in {args.runs_dir}; start again") from None
    except OSError as error:
        if made:
            take_away(target)
        raise ConfigError(
            f"runs-dir: {str(runs)!r} cannot be written to ({error.strerror}); expected a folder of yours, or the name "
            "of a new one"
        ) from error
    return target


def runs_folder(given: Path) -> Path:
    """The folder of campaigns, absolute; `..` and links before it are followed, as a shell does.

    Raises `ConfigError` for a path that logs and databases could not name.
    """
    try:
        str(given).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"runs-dir: {str(given)!r} cannot be read in this locale; expected LANG=C.UTF-8, or a name in ASCII"
        ) from None
    if any(ord(char) < 32 or ord(char) == 127 for char in str(given)):
        raise ConfigError(f"runs-dir: {str(given)!r} is not valid; expected a path without line breaks")
    return given.resolve() if ".." in given.parts else given.absolute()


def has_begun(run_dir: Path) -> bool:
    """Whether anything was done in a campaign that would be lost with its directory."""
    try:
        db = open_readonly(RunPaths(run_dir).scheduler_db)
        with closing(db):
            return db.execute("SELECT 1 FROM leases LIMIT 1").fetchone() is not None
    except (FileNotFoundError, sqlite3.Error):
        return False


def take_away(run_dir: Path) -> None:
    """Remove what a start made that failed, so that its name is free."""
    shutil.rmtree(run_dir, ignore_errors=True)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the campaign: one driver at a time. The kernel drops the lock when this process dies."""
    with RunPaths(run_dir).lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"name: campaign {run_dir.name!r} is running in another process") from None
        os.set_inheritable(file.fileno(), False)
        yield


def check_key_is_out_of_reach(config: CampaignConfig, key: str | None, run_dir: Path | None) -> None:
    """Refuse a brain with a key where researchers' code runs as the user who can read the key. `key` and `run_dir` are
    as for `check_brain`, which has passed.
    """
    brain = config.brain
    if not config.allow_unsandboxed or not brain.calls_model:
        return
    own = brain.kind == "replay" or brain.served
    if key is not None or (not own and key_of(brain, run_dir) is not None):
        raise ConfigError(
            "allow_unsandboxed: true is not valid with an API key, which code without a sandbox could read; expected "
            "no --allow-unsandboxed, on a machine with a usable sandbox, or a brain without a key: an explorer, or "
            "brain.base_url of an endpoint that needs none (and neither brain.key_file nor ANTHROPIC_API_KEY)"
        )


def check_machine(config: CampaignConfig, runs_dir: Path) -> None:
    """Refuse to start where the campaign could not end well."""
    place = runs_folder(runs_dir)
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ConfigError(f"runs-dir: {str(place)!r} is a file; expected a folder, or the name of a new one")
    free = shutil.disk_usage(place).free / (1 << 30)
    if free < config.pool.min_free_disk_gb:
        raise ConfigError(
            f"pool.min_free_disk_gb: {free:.1f} GiB are free at {place}; "
            f"expected at least {config.pool.min_free_disk_gb:g}"
        )
    sandbox = available()
    if not sandbox.ok and not confinable() and not config.allow_unsandboxed:
        raise ConfigError(
            f"no usable sandbox: {sandbox.reason}\n{sandbox.remedy}\n"
            "(--allow-unsandboxed runs without one; every record is then marked unverified)"
        )
    if config.task.from_files():
        from actors.evaluator.preflight import check_files  # imports torch: seconds that other campaigns can do without

        for note in check_files(config):
            print(f"task {note}", file=sys.stderr)


def follow(director: Any, run_dir: Path) -> None:
    """Show progress until the director has finished."""
    import ray
    from ray.exceptions import GetTimeoutError
    from rich.console import Console
    from rich.live import Live

    from actors.observer.live import one_line, render

    console, name = Console(), run_dir.name
    run = director.run.remote()
    live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
    guard = Guard()  # the view is not the campaign: a fault of it is told, and the campaign goes on
    said, was_paused = 0.0, False

    def look() -> None:
        nonlocal said, was_paused
        try:
            status = ray.get(director.status.remote(), timeout=10)
        except GetTimeoutError:  # busy
            return
        status = {**status, "unobserved": {**status.get("unobserved", {}), **guard.failed()}}
        if live is not None:
            live.update(render(name, status))
        elif bool(status["paused"]) != was_paused or time.monotonic() - said >= LINE_EVERY_S:
            said, was_paused = time.monotonic(), bool(status["paused"])
            print(one_line(name, status), flush=True)

    with live if live is not None else nullcontext():
        while not ray.wait([run], timeout=LIVE_EVERY_S)[0]:
            guard.run("view of the campaign", look)
    ray.get(run)


def campaign(run_dir: Path, config: CampaignConfig, watch: Callable[[Any, Path], None]) -> None:
    """Connect, bring the actors up, follow them to the end, take them down."""
    set_authentication()
    import ray
    from ray.exceptions import RayError, RayTaskError

    from actors.director.bring_up import bring_up
    from cluster.connection import connect

    handles = None
    try:
        connection = connect()
        stop_on_signals()  # again: ray.init installs a handler of its own
        if connection.dashboard:
            print(f"Ray dashboard: http://{connection.dashboard}", flush=True)
        handles = bring_up(run_dir, config, connection)
        watch(handles.director, run_dir)
    except RayTaskError as error:
        raise AarError(str(error.cause)) from None
    except RayError as error:
        raise AarError(f"Ray failed: {error}") from None
    finally:
        if handles is not None:
            handles.take_down()
        ray.shutdown()


def finish(run_dir: Path) -> int:
    """Write summary, export and report, close the run unless it is closed already; verify; say where things are."""
    from actors.observer import verify_run, write_all
    from scripts.report import print_summary

    paths = RunPaths(run_dir)
    if not paths.closing.exists():
        write_all(run_dir)
        print(f"Closed with {paths.closing.name}, sha256 {close_run(paths)}")
    print_summary(run_dir)
    report = verify_run(run_dir, going_on=False)
    print(report.text())
    print(f"Report: {paths.report}")
    return 0 if report.ok else 1


def has_ended(run_dir: Path) -> bool:
    """Whether the campaign in `run_dir` has gone through all its phases: nothing is left but its report and closing."""
    from actors.observer import phase_of

    return phase_of(run_dir) == Phase.DONE.label


@contextmanager
def handed(key: str | None, run_dir: Path, config: CampaignConfig) -> Iterator[None]:
    """The key of this driver's environment lies where the gateway finds it, as long as the campaign runs."""
    if key is not None and config.brain.calls_model and config.brain.key_file is None:
        hand_over(key, run_dir)
    try:
        yield
    finally:
        handed_path(run_dir).unlink(missing_ok=True)


def main(argv: list[str], watch: Callable[[Any, Path], None] = follow) -> int:
    args = parse(argv)
    key = take_from_environment()
    run_dir: Path | None = None
    status, kept = 1, True
    stop_on_signals()
    try:
        config = configuration(args)
        if args.resume:
            check_begun(RunPaths(args.runs_dir.absolute() / args.name), config)
        check_prompt(config)
        check_budget(config, len(BASELINES))
        if args.estimate:
            print(estimate(config, len(BASELINES)).text())
            return 0
        earlier = args.runs_dir.absolute() / args.name if args.resume else None
        check_brain(config, key, earlier, sealing(config, len(BASELINES)))
        check_key_is_out_of_reach(config, key, earlier)
        check_machine(config, args.runs_dir)
        run_dir = directory(args, config)
        with locked(run_dir), handed(key, run_dir, config):
            print(f"Campaign {run_dir.name} in {run_dir}", flush=True)
            print(f"Evaluator's public key: {publish_key(RunPaths(run_dir))}", flush=True)
            if not has_ended(run_dir):
                campaign(run_dir, config, watch)
            return finish(run_dir)
    except ConfigError as error:
        complain("run_campaign", error)
        return 2
    except AarError as error:
        complain("run_campaign", error)
        kept = args.resume or (run_dir is not None and has_begun(run_dir))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain("run_campaign", f"{place}{error.strerror or error}; see that it is yours and has room")
        kept = args.resume or (run_dir is not None and has_begun(run_dir))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except StopSignal as stop:
        print(f"stopped by signal {int(str(stop.code)) - 128}", file=sys.stderr)
        status = int(str(stop.code))
    if run_dir is not None and not kept:
        take_away(run_dir)
    elif run_dir is not None:
        again = ["--resume", "--name", run_dir.name, "--runs-dir", str(run_dir.parent)]
        print(
            f"Nothing that was acknowledged is lost. Continue with:\n"
            f"  python scripts/run_campaign.py {shlex.join(again)}",
            file=sys.stderr,
        )
    return status


if __name__ == "__main__":
    sys.exit(run_script(main))
