"""A driver with a scheduler and a gateway, for the red team: `python -m tests.integration.key_driver RUN_DIR URL`.

It takes the key from its environment as `run_campaign.py` does, asks each prompt that comes as a JSON line on stdin and
answers with a JSON line; `ray` asks for everything that Ray's state API tells.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from actors.gateway.keys import hand_over, take_from_environment
from cluster.authentication import set_authentication
from cluster.config import dump_config, load_config
from cluster.names import RunPaths, actor_name

RESEARCHER = "01-elicitation"


def main(run_dir: Path, url: str) -> int:
    key = take_from_environment()
    set_authentication()
    import ray

    from actors.director.bring_up import OFFICE
    from actors.gateway.actor import GatewayActor
    from actors.scheduler.actor import SchedulerActor
    from cluster.connection import connect
    from cluster.names import NAMESPACE
    from cluster.remote import Remote

    config = load_config("quickstart", overrides=("brain.kind=claude", f"brain.base_url={url}"))
    run_dir.mkdir(parents=True)
    RunPaths(run_dir).config.write_text(dump_config(config))
    assert key is not None
    handed = hand_over(key, run_dir)
    connect()
    data, name = config.model_dump(mode="json"), run_dir.name
    actors: list[Any] = []
    offices: tuple[tuple[Any, str], ...] = ((SchedulerActor, "scheduler"), (GatewayActor, "gateway"))
    for kind, label in offices:
        options = {**OFFICE, "name": actor_name(name, label), "namespace": NAMESPACE}
        actors.append(kind.options(**options).remote(str(run_dir), data))
    asyncio.run(_serve(Remote(actor_name(name, "scheduler")), Remote(actor_name(name, "gateway"))))
    ray.get(actors[1].close.remote())
    ray.shutdown()
    handed.unlink()
    return 0


async def _serve(scheduler: Any, gateway: Any) -> None:
    parent = None
    for account in ("campaign", f"campaign/researcher/{RESEARCHER}", f"campaign/researcher/{RESEARCHER}/tokens"):
        await scheduler.open_account(account, account, parent, {})
        parent = account
    _say({"ready": True})
    for number, line in enumerate(iter(sys.stdin.readline, "")):
        prompt = json.loads(line)
        if prompt == "ray":
            _say(_told_by_ray())
            continue
        body = {"model": "claude-opus-4-6", "max_tokens": 500, "messages": [{"role": "user", "content": prompt}]}
        _say(await gateway.call(f"{RESEARCHER}/{number}/model/0", RESEARCHER, body))


def _told_by_ray() -> dict[str, Any]:
    from ray.util import state

    lists = (state.list_actors, state.list_tasks, state.list_workers, state.list_nodes, state.list_jobs)
    return {call.__name__: repr(call(detail=True)) for call in lists}


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
