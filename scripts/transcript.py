"""Print or export the transcript of a researcher: what it saw, thought, called and got back.

python scripts/transcript.py runs/tuesday 03-weak-plus-elicited
python scripts/transcript.py runs/tuesday 03-weak-plus-elicited --format jsonl > transcript.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from actors.observer.narrate import json_line, markdown
from actors.researcher.transcript import read_turns
from cluster.names import RunPaths
from cluster.store import open_readonly
from cluster.terminal import complain, run_script


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a campaign")
    parser.add_argument("researcher", help="id of a researcher, or the beginning of one")
    parser.add_argument("--format", choices=("markdown", "jsonl"), default="markdown")
    parser.add_argument("--from-turn", type=int, default=0, metavar="N", help="first turn to show")
    args = parser.parse_args(argv)
    paths = RunPaths(args.run)
    known = sorted(path.parent.name for path in paths.researchers.glob("*/researcher.db"))
    found = [name for name in known if name.startswith(args.researcher)]
    if len(found) != 1:
        complain(
            "transcript",
            f"researcher: {args.researcher!r} is {'not clear' if found else 'not there'}; "
            f"expected one of {', '.join(known) or 'none: no researcher has begun'}",
        )
        return 2
    db = open_readonly(paths.researcher_db(found[0]))
    try:
        if args.format == "markdown":
            print(f"# {found[0]}\n")
        for turn in read_turns(db, args.from_turn):
            print(json_line(turn) if args.format == "jsonl" else markdown(turn) + "\n")
    finally:
        db.close()
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
