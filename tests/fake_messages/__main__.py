"""`python -m tests.fake_messages --port N --behaviour researcher`: serve until interrupted."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.fake_messages.researcher import BEHAVIOURS
from tests.fake_messages.server import FakeMessages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--behaviour", choices=sorted(BEHAVIOURS), default="researcher")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--key", action="append", help="accept this key alone; may be given again")
    args = parser.parse_args()
    script = BEHAVIOURS[args.behaviour]
    keys = set(args.key) if args.key else None
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with FakeMessages(lambda request, n: script(request, n).after(args.delay), keys=keys, port=args.port) as fake:
        sys.stdout.write(f"{fake.url}\n")
        sys.stdout.flush()
        signal.sigwait(stops)
    return 0


if __name__ == "__main__":
    sys.exit(main())
