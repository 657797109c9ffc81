"""Run one researcher in the foreground: its thoughts, tool calls and spend on the terminal.

python scripts/run_researcher.py --direction "Look inside the strong model for the truth." --set brain.kind=claude
python scripts/run_researcher.py --direction "..." --preset quickstart --set budget.researcher.usd=5 --name mine
python scripts/run_researcher.py --direction "..." --config my.yaml

It is a campaign of one: what holds for campaigns holds for it, and `run_campaign.py --resume` goes on with it.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from actors.observer.narrate import markdown
from actors.researcher.transcript import read_turns
from cluster.money import format_usd
from cluster.names import Part, RunPaths, researcher_account
from cluster.observing import Guard
from cluster.store import open_readonly
from cluster.terminal import run_script
from scripts import run_campaign

SHOWN_CHARS = 1200
POLL_S = 1.0
RESEARCHER = "researcher"
SPENT_ON: dict[Part, str] = {"tokens": "on the model", "gpu": "on pilots", "evaluations": "on evaluations"}


def campaign_arguments(argv: list[str]) -> list[str]:
    """What `run_campaign.py` is called with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direction", required=True, help="where the researcher starts from, in a sentence or two")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", default="quickstart", help="the configuration to start from (default: quickstart)")
    source.add_argument("--config", help="a configuration file to start from")
    args, rest = parser.parse_known_args(argv)
    start = ["--preset", args.preset] if args.config is None else ["--config", args.config]
    team = json.dumps([{"id": RESEARCHER, "text": args.direction}])
    named = any(word.split("=")[0] == "--name" for word in rest)
    name = [] if named else ["--name", f"one-{time.strftime('%Y%m%d-%H%M%S')}"]
    return [*start, "--set", f"researchers.directions={team}", *name, *rest]


def watch(director: Any, run_dir: Path) -> None:
    """Print turns as they end, until the director has finished."""
    import ray
    from ray.exceptions import RayError

    run = director.run.remote()
    path = RunPaths(run_dir).researcher_db(f"01-{RESEARCHER}")
    shown, guard = 0, Guard()
    while True:
        ended = bool(ray.wait([run], timeout=POLL_S)[0])
        turns = new_turns(path, shown)
        for turn in turns:
            shown = turn.number + 1
            print(f"{markdown(turn, SHOWN_CHARS)}\n", flush=True)
        if turns:
            try:
                print(f"*{bill(ray.get(director.status.remote(), timeout=10))}*\n", flush=True)
            except RayError as error:  # the director restarts, or is busy; a later turn says what was spent
                guard.note("what was spent", error)
        if ended:
            ray.get(run)
            return


def bill(status: dict[str, Any]) -> str:
    """What the researcher has spent by a director's status: dollars in all, and for what."""
    accounts = status.get("scheduler", {}).get("accounts", {})

    def usd(part: Part | None = None) -> int:
        return int(accounts.get(researcher_account(f"01-{RESEARCHER}", part), {}).get("spent", {}).get("usd", 0))

    parts = ", ".join(f"{format_usd(usd(part))} {words}" for part, words in SPENT_ON.items() if usd(part))
    return f"Spent so far: {format_usd(usd())}{f' ({parts})' if parts else ''}"


def new_turns(path: Path, first: int) -> list[Any]:
    try:
        db = open_readonly(path)
    except FileNotFoundError:
        return []
    try:
        return list(read_turns(db, first))
    except sqlite3.OperationalError:
        return []  # its tables are just being made
    finally:
        db.close()


if __name__ == "__main__":
    sys.exit(run_script(lambda argv: run_campaign.main(campaign_arguments(argv), watch)))
