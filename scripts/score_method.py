"""Score a method of your own through the campaign's evaluator, without agents.

    python scripts/score_method.py my_method.py --task math --tier dev [--json]
    python scripts/score_method.py my_method.py --task /data/chat --weak PATH_OR_ID --strong PATH_OR_ID
    python scripts/score_method.py my_method.py --config lab.yaml --task chat

The file defines `train(run) -> Student` (see gpu_pool/weak_to_strong/run.py). Baselines, teachers and pretrained models
are made once per task in `--runs-dir` and used again. The record that comes out is signed like any other. Sealed items
are fresh for the first method only: later ones are scored on them, too, but are never said to beat a baseline; another
`--runs-dir` draws others. Of a task from files the sealed items are its test split, the same everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from cluster.authentication import set_authentication
from cluster.config import CampaignConfig, ConfigError, dump_config, load_config, load_stored
from cluster.errors import AarError
from cluster.money import Caps, format_usd
from cluster.names import CAMPAIGN, RunPaths
from cluster.objects import ObjectStore
from cluster.terminal import complain, run_script
from cluster.text import visible_line
from scripts.report import figure
from scripts.run_campaign import check_machine, locked

Ask = Callable[[Any, str, str, str], Awaitable[Any]]


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Which task: `--task`, `--weak`, `--strong`, and what it is scored with: `--config`, `--set`, `--runs-dir`."""
    parser.add_argument(
        "--task", default="math", metavar="TASK",
        help="a generated domain (chat, math, code), a name of task.files in --config, or with --weak and --strong a "
        "folder of JSON lines, a .jsonl file or hub:NAME[:CONFIG]",
    )  # fmt: skip
    parser.add_argument("--weak", metavar="MODEL", help="the teachers' model of a task from files: folder or hub id")
    parser.add_argument("--strong", metavar="MODEL", help="the students' model of a task from files")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a campaign's configuration; default: quickstart")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--set", action="append", default=[], metavar="key.path=value")


def configuration(args: argparse.Namespace) -> CampaignConfig:
    """The scoring of one task; a task from files is called like its folder or file. Raises `ConfigError`."""
    if (args.weak is None) != (args.strong is None):
        raise ConfigError("--weak and --strong: a task from files needs both models")
    name, overrides = str(args.task), []
    if args.weak is not None:
        place = name.removeprefix("hub:").partition(":")[0] if name.startswith("hub:") else name
        name = re.sub("[^a-z0-9]+", "-", Path(place).stem.lower()).strip("-")[:40]
        files = {"path": args.task, "weak": args.weak, "strong": args.strong}
        overrides = [f"task.files.{name}.{field}={json.dumps(value)}" for field, value in files.items()]
    overrides += [f"task.domains={json.dumps([name])}", *args.set]
    preset = None if args.config is not None else "quickstart"
    return load_config(preset=preset, file=args.config, overrides=tuple(overrides))


def directory(runs: Path, config: CampaignConfig) -> Path:
    """The run directory of this task's scores. Raises `ConfigError` when it was made with other settings."""
    task = config.task
    world = "" if task.from_files() else f"-{task.size}-{task.world_seed}"
    run = runs.absolute() / f"score-{task.domains[0]}{world}"
    run.mkdir(parents=True, exist_ok=True)
    stored = RunPaths(run).config
    if not stored.exists():
        stored.write_text(dump_config(config), encoding="utf-8")
    before = load_stored(stored)
    changed = [name for name in type(config).model_fields if getattr(before, name) != getattr(config, name)]
    if changed:
        raise ConfigError(
            f"{changed[0]}: differs from what {run} was made with; expected the same, or another --runs-dir"
        )
    return run


async def score(evaluator: Any, snapshot: str, name: str, tier: str, domain: str) -> Any:
    """The record of the method, as plain data."""
    return await evaluator.score(f"score/{snapshot}/{tier}", snapshot, name, tier, domain)


def with_evaluator(args: argparse.Namespace, ask: Ask) -> Any:
    """What `ask(evaluator, snapshot, name, domain)` gives for a method file, with everything brought up for it."""
    method, runs = args.method, args.runs_dir
    if not method.is_file():
        raise ConfigError(f"method: {str(method)!r} is not a file")
    config = configuration(args)
    check_machine(config, runs)
    run_dir = directory(runs, config)
    snapshot = ObjectStore(RunPaths(run_dir).objects).put_tree({"method.py": method.read_bytes()})
    return in_run(run_dir, config, lambda evaluator: ask(evaluator, snapshot, method.stem, config.task.domains[0]))


def in_run(run_dir: Path, config: CampaignConfig, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """What `ask(evaluator)` gives, with the evaluator of a run directory and all that it needs brought up."""
    set_authentication()
    import ray

    from actors.director.bring_up import bring_up_evaluation
    from cluster.connection import connect

    async def carry_out(slots: list[str]) -> Any:
        from actors.director.roster import enrol
        from actors.evaluator.client import EvaluatorClient
        from actors.scheduler.client import SchedulerClient

        scheduler = SchedulerClient.of(run_dir.name)
        await enrol(scheduler, slots)
        await scheduler.open_account(f"open/{CAMPAIGN}", CAMPAIGN, None, Caps())
        return await ask(EvaluatorClient.of(run_dir.name, patience_s=600))

    with locked(run_dir):
        campaign, slots = bring_up_evaluation(run_dir, config, connect(dashboard=False))
        try:
            return asyncio.run(carry_out(slots))
        finally:
            campaign.take_down()
            ray.shutdown()


def show(record: dict[str, Any]) -> None:
    """One record for a person."""
    standing = record["standing"] or {}
    given = record["status"] == "reference"
    method, pgr = visible_line(record["method"]), figure(record["pgr"], record["interval"], given=given)
    print(f"{method} on {record['domain']}, {record['tier']}: PGR {pgr}")
    print(f"accuracy {record['accuracy']:.3f} over {record['seeds']} seeds and {record['n']} items")
    why = f": {visible_line(standing['reason'])}" if standing.get("reason") else ""
    print(f"{record['status']}{why} (versus {standing.get('versus')}, p = {standing.get('p')})")
    print(f"sandbox grade {record['sandbox_grade']}, cost {format_usd(record['cost'])}, record {record['record_id']}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", type=Path)
    add_task_options(parser)
    parser.add_argument("--tier", default="dev", choices=("dev", "board", "seal"))
    parser.add_argument("--json", action="store_true", help="print the whole record")
    args = parser.parse_args(argv)
    try:
        record = with_evaluator(
            args,
            lambda evaluator, snapshot, name, domain: score(evaluator, snapshot, name, args.tier, domain),
        )
    except AarError as error:
        complain("score_method", error)
        return 2
    if args.json:
        print(json.dumps(record, indent=2, default=str))
    else:
        show(record)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
