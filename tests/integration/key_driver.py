"""A campaign's driver for the red team: `python -m tests.integration.key_driver FILE ARGUMENTS`.

It is `run_campaign.py ARGUMENTS`; before the campaign's actors end, all that Ray's state API tells of them goes into
FILE, and what the director and the gateway say of themselves.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from scripts.run_campaign import follow, main


def watch(told: Path, director: Any, run_dir: Path) -> None:
    """Follow the campaign to its end and write down what is shown of it."""
    follow(director, run_dir)
    import ray
    from ray.util import state

    lists = (state.list_actors, state.list_tasks, state.list_workers, state.list_nodes, state.list_jobs)
    answers = {call.__name__: repr(call(detail=True, limit=10_000)) for call in lists}
    told.write_text(json.dumps({**answers, "director": repr(ray.get(director.status.remote()))}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], partial(watch, Path(sys.argv[1]))))
