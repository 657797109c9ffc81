"""Check a campaign's journals, books and records without any actor running.

    python scripts/verify.py runs/quickstart

Exit status 1 and the first broken event when something does not hold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from actors.observer import verify_run
from cluster.terminal import run_script


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the campaign's directory")
    args = parser.parse_args(argv)
    if not args.run.is_dir():
        print(f"verify: {args.run} is not a campaign's directory", file=sys.stderr)
        return 2
    report = verify_run(args.run)
    print(report.text())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(run_script(main))
