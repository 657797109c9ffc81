"""Each service has one typed client; it has the methods of its actor, with their types."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import typing
from pathlib import Path
from typing import Any

import pytest

from actors.director.actor import DirectorActor
from actors.director.client import DirectorClient
from actors.evaluator.actor import EvaluatorActor
from actors.evaluator.client import EvaluatorClient
from actors.gateway.actor import GatewayActor
from actors.gateway.client import GatewayClient
from actors.researcher.actor import ResearcherActor
from actors.researcher.client import ResearcherClient
from actors.scheduler.actor import SchedulerActor
from actors.scheduler.client import SchedulerClient
from actors.scheduler.scheduler import Scheduler
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.remote import Local
from cluster.wire import pack, unpack
from forum_actor.actor import ForumActor
from forum_actor.client import ForumClient
from gpu_pool.actor import SlotActor
from gpu_pool.client import SlotClient

SERVICES = [
    (SchedulerClient, SchedulerActor),
    (EvaluatorClient, EvaluatorActor),
    (ForumClient, ForumActor),
    (GatewayClient, GatewayActor),
    (ResearcherClient, ResearcherActor),
    (DirectorClient, DirectorActor),
    (SlotClient, SlotActor),
]


def methods(kind: Any) -> dict[str, tuple[list[tuple[str, Any, Any]], Any]]:
    """Public async methods: parameters with their defaults and types, and the type of the result."""
    if hasattr(kind, "__ray_metadata__"):
        kind = kind.__ray_metadata__.modified_class
    found = {}
    for name, method in inspect.getmembers(kind, inspect.iscoroutinefunction):
        if name.startswith("_"):
            continue
        types = typing.get_type_hints(method)
        parameters = [p for p in list(inspect.signature(method).parameters.values())[1:] if p.name != "_ray_trace_ctx"]
        found[name] = ([(p.name, p.default, types[p.name]) for p in parameters], types["return"])
    return found


@pytest.mark.parametrize(("client", "actor"), SERVICES, ids=lambda kind: getattr(kind, "__name__", ""))
def test_a_client_has_the_methods_of_its_actor(client: Any, actor: Any) -> None:
    assert methods(client) == methods(actor)


def test_the_plain_scheduler_can_stand_behind_a_client() -> None:
    own, asked = methods(Scheduler), methods(SchedulerClient)
    assert {name: own[name][1] for name in asked} == {name: asked[name][1] for name in asked}


def test_a_refusal_crosses_whole_and_its_reason_is_plain_text_on_the_wire() -> None:
    exceeded = LimitExceeded("usd", "campaign", 5, 7, "ledger")
    error = RefusedError(Reason.OVER_BUDGET, "no money", {"left": 1}, exceeded)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (again.reason, again.message, again.detail, again.exceeded) == (
        Reason.OVER_BUDGET,
        "no money",
        {"left": 1},
        exceeded,
    )
    assert unpack(pack({"reason": error.reason}), 100) == {"reason": "over_budget"}


def test_every_reason_is_used() -> None:
    """A reason that nobody gives is no reason."""
    root = Path(__file__).resolve().parents[3]
    text = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("actors", "cluster", "forum_actor", "gpu_pool", "scripts")
        for path in (root / folder).rglob("*.py")
    )
    assert [reason.name for reason in Reason if f"Reason.{reason.name}" not in text] == []


def test_a_local_service_may_be_async_or_not() -> None:
    class Service:
        def plain(self, number: int) -> int:
            return number

        async def later(self, number: int) -> int:
            return number

    local = Local(Service())
    assert asyncio.run(local.call("plain", 1)) == asyncio.run(local.call("later", 1)) == 1
