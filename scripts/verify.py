"""Check a campaign's journals, tables, files, books and records without any actor running.

    python scripts/verify.py runs/quickstart
    python scripts/verify.py runs/quickstart --key HEX             under the key that was published at the start
    python scripts/verify.py runs/quickstart --write-anchor FILE   for somebody else to keep
    python scripts/verify.py runs/quickstart --anchor FILE         against one that was kept

The first line says in which state the run is and what is not covered. Exit status 1 and the first broken event when
something does not hold, 2 when there is no run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from actors.observer import NoRunError, verify_run
from actors.observer.anchor_file import AnchorError, read_anchor, write_anchor
from actors.observer.run_data import load_run

KEY_DIGITS = 64


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the campaign's directory")
    parser.add_argument("--key", type=key_of_text, metavar="HEX", help="the evaluator's public key as it was published")
    parser.add_argument("--anchor", type=Path, metavar="FILE", help="an anchor that somebody kept")
    parser.add_argument("--write-anchor", type=Path, metavar="FILE", help="write an anchor, and check nothing")
    return parser.parse_args(argv)


def key_of_text(text: str) -> str:
    """A public key as it is written everywhere: 64 lower-case hexadecimal digits."""
    key = text.strip().lower()
    if len(key) != KEY_DIGITS or any(c not in "0123456789abcdef" for c in key):
        raise argparse.ArgumentTypeError(f"{text!r} is not a key: expected {KEY_DIGITS} hexadecimal digits")
    return key


def main(argv: list[str]) -> int:
    args = parse(argv)
    try:
        if not args.run.is_dir():
            what = "is not a directory" if args.run.exists() else "does not exist"
            raise NoRunError(f"{args.run} {what}: expected a campaign's directory, runs/NAME")
        if args.write_anchor is not None:
            write_anchor(load_run(args.run), args.write_anchor)
            print(f"Anchor: {args.write_anchor}")
            return 0
        anchor = None if args.anchor is None else read_anchor(args.anchor)
        report = verify_run(args.run, key=args.key, anchor=anchor)
    except (NoRunError, AnchorError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    print(report.text())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
