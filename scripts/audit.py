"""Audit a method: eight training runs in which something that an honest method needs has been taken away.

    python scripts/audit.py my_method.py --task math [--json]

The task is chosen as in score_method.py, generated or from files.
The method is first scored on BOARD's items in a run directory of its own (see score_method.py), then tried without
pretraining, with shuffled and with inverted weak labels, on each half of the pool, and on a task whose truth is coin
flips. Exit status 0: nothing found, or only a tag; 1: it would be disqualified; 3: a trial gave no result.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from cluster.errors import AarError
from cluster.terminal import complain, run_script
from cluster.text import visible_line
from scripts.score_method import add_task_options, with_evaluator

STATUS = {"pass": 0, "tag": 0, "fail": 1, "open": 3}


async def audit(evaluator: Any, snapshot: str, name: str, domain: str) -> Any:
    """The report, as plain data."""
    return await evaluator.audit(snapshot, name, domain)


def show(report: dict[str, Any]) -> None:
    """One line a verdict."""
    for verdict in report["verdicts"]:
        numbers = [verdict["value"], verdict["limit"]]
        shown = " against ".join(f"{number:.3f}" for number in numbers if number is not None)
        says = visible_line(verdict["says"])
        print(f"{verdict['outcome']:5} {verdict['audit']}: {says}" + (f" ({shown})" if shown else ""))
    print(f"In all: {report['outcome']}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", type=Path)
    add_task_options(parser)
    parser.add_argument("--json", action="store_true", help="print the whole report")
    args = parser.parse_args(argv)
    try:
        report = with_evaluator(args, audit)
    except AarError as error:
        complain("audit", error)
        return 2
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return STATUS[report["outcome"]]


if __name__ == "__main__":
    sys.exit(run_script(main))
