"""Run one researcher in the foreground: its thoughts, tool calls and spend on the terminal.

python scripts/run_researcher.py --direction "Look inside the strong model for the truth." --set brain.kind=claude
python scripts/run_researcher.py --direction "..." --preset quickstart --set budget.researcher.usd=5 --name mine

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

from actors.observer.narrate import charged, markdown
from actors.researcher.transcript import read_turns
from cluster.money import format_usd
from cluster.names import RunPaths
from cluster.store import open_readonly
from scripts import run_campaign

SHOWN_CHARS = 1200
POLL_S = 1.0
RESEARCHER = "researcher"


def campaign_arguments(argv: list[str]) -> list[str]:
    """What `run_campaign.py` is called with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direction", required=True, help="where the researcher starts from, in a sentence or two")
    parser.add_argument("--preset", default="quickstart", help="the configuration to start from (default: quickstart)")
    args, rest = parser.parse_known_args(argv)
    team = json.dumps([{"id": RESEARCHER, "text": args.direction}])
    name = [] if "--name" in rest else ["--name", f"one-{time.strftime('%Y%m%d-%H%M%S')}"]
    return ["--preset", args.preset, "--set", f"researchers.directions={team}", *name, *rest]


def watch(director: Any, run_dir: Path) -> None:
    """Print turns as they end, until the director has finished."""
    import ray

    run = director.run.remote()
    path = RunPaths(run_dir).researcher_db(f"01-{RESEARCHER}")
    shown, spent = 0, 0
    while True:
        ended = bool(ray.wait([run], timeout=POLL_S)[0])
        for turn in _turns(path, shown):
            spent += charged(turn)
            shown = turn.number + 1
            bill = f"\n\n*Spent on the model so far: {format_usd(spent)}*" if spent else ""
            print(f"{markdown(turn, SHOWN_CHARS)}{bill}\n", flush=True)
        if ended:
            ray.get(run)
            return


def _turns(path: Path, first: int) -> list[Any]:
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
    sys.exit(run_campaign.main(campaign_arguments(sys.argv[1:]), watch))
