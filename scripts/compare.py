"""Campaigns side by side: PGR, what it cost in dollars and hours, diversity of ideas, cheating that was caught.

    python scripts/compare.py runs/published runs/structured runs/solo [--json]

PGR is the best sealed value; where a campaign has none yet, the best of its board, which is selected and leans high, or
of DEV, which is noised: the column says which.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from actors.observer.compare import compared, table
from cluster.errors import AarError
from cluster.terminal import complain, run_script, show


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directory of a campaign")
    parser.add_argument("--json", action="store_true", help="plain data instead of a table")
    args = parser.parse_args(argv)
    try:
        rows = [compared(run) for run in args.runs]
    except AarError as error:
        complain("compare", error)
        return 2
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        show(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
