"""Bringing the actors of a campaign up, and taking them down.

The driver owns the actors: when it dies, however it dies, they die with it and free what they hold; `--resume` starts
new ones on the same directory. An actor that dies alone is restarted by Ray and reads its state back from disk.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.director.actor import DirectorActor
from actors.director.roster import WARM_S
from actors.evaluator.actor import EvaluatorActor
from actors.gateway.actor import GatewayActor
from actors.researcher.actor import ResearcherActor
from actors.scheduler.actor import SchedulerActor
from cluster.config import CampaignConfig
from cluster.connection import Connection
from cluster.errors import AarError
from cluster.names import NAMESPACE, actor_name
from forum_actor.actor import ForumActor
from gpu_pool.actor import SlotActor

OFFICE = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
"""Services stand beside the run directory, on the head."""
NAME_FREE_S = 30.0
CLOSE_S = 10.0


@dataclass(frozen=True, slots=True)
class Campaign:
    """The handles of a campaign's actors."""

    actors: tuple[Any, ...]
    slots: tuple[Any, ...] = ()
    director: Any = None
    gateways: tuple[Any, ...] = ()
    scheduler: Any = None

    def take_down(self) -> None:
        """Have slots and gateway clear up, then end every actor; their state is on disk.

        In this order: a gateway ends its server's lease through the scheduler; what ends with its slot is no loss, and
        no lease is granted to a slot that closes.
        """
        for some in (self.gateways, (self.scheduler,) if self.scheduler is not None else (), self.slots):
            closing = [actor.close.remote() for actor in some]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for handle in self.actors:
            ray.kill(handle)


def slot_count(config: CampaignConfig, connection: Connection) -> tuple[int, bool]:
    """How many slots there are and whether they are real GPUs."""
    if config.pool.logical_gpus is not None:
        return config.pool.logical_gpus, False
    if connection.gpus:
        return connection.gpus, True
    return max(1, connection.cpus // config.pool.threads_per_slot), False


def bring_up(run_dir: Path, config: CampaignConfig, connection: Connection) -> Campaign:
    """Start the slots, the services, the researchers and the director of a campaign."""
    name, data = run_dir.name, config.model_dump(mode="json")
    base, slots = bring_up_evaluation(run_dir, config, connection)
    forum = _start(ForumActor, actor_name(name, "forum"), (str(run_dir), data), OFFICE)
    gateways = tuple(
        _start(GatewayActor, actor_name(name, "gateway"), (str(run_dir), data), OFFICE)
        for _ in range(config.brain.calls_model)
    )
    director = _start(DirectorActor, actor_name(name, "director"), (str(run_dir), data, slots), OFFICE)
    # Researchers have nothing to do before the task is made: their processes start beside that, not beside the slots.
    ray.wait([slot.info.remote() for slot in base.slots], num_returns=len(base.slots), timeout=WARM_S)
    researchers = [
        _start(ResearcherActor, actor_name(name, researcher), (str(run_dir), data, researcher), OFFICE)
        for researcher in config.researcher_ids()
    ]
    return Campaign(
        (director, *researchers, forum, *gateways, *base.actors), base.slots, director, gateways, base.scheduler
    )


def bring_up_evaluation(run_dir: Path, config: CampaignConfig, connection: Connection) -> tuple[Campaign, list[str]]:
    """Start what scoring needs: slots, scheduler, evaluator; also the actor names of the slots."""
    name, data = run_dir.name, config.model_dump(mode="json")
    count, real = slot_count(config, connection)
    slots = [actor_name(name, f"slot-{n}") for n in range(count)]
    device = {"num_gpus": int(real), "num_cpus": 0}
    handles = tuple(_start(SlotActor, slot, (f"slot-{n}", n, data), device) for n, slot in enumerate(slots))
    actors = list(handles)
    for kind, label in ((SchedulerActor, "scheduler"), (EvaluatorActor, "evaluator")):
        actors.append(_start(kind, actor_name(name, label), (str(run_dir), data), OFFICE))
    scheduler = actors[len(handles)]
    return Campaign(tuple(actors), handles, scheduler=scheduler), slots


class NameTakenError(AarError):
    """Another driver's campaign of the same name is alive on this Ray."""


def _start(kind: Any, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A named actor; waits for the name of a predecessor that is still dying."""
    deadline = time.monotonic() + NAME_FREE_S
    while True:
        try:
            return kind.options(name=name, namespace=NAMESPACE, **options).remote(*args)
        except ValueError as error:
            if time.monotonic() > deadline:
                campaign = name.partition("/")[0]
                raise NameTakenError(
                    f"campaign {campaign!r} runs on this Ray already, from another run directory (its actor {name} is "
                    "alive); expected another --name, or that one ended"
                ) from error
            time.sleep(0.2)
