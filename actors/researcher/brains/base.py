"""What a brain is, and which there are.

The contract of every brain: `decide` is a function of the observation and of what the brain was made with. It
keeps nothing between calls that it could not build again from `observation.history`, because a restarted
researcher makes a new one. No call is an empty turn; a `finish` call ends the work. When `observation.seen.ending` is
set the turn is the last, and only free tools will run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from actors.gateway.client import GatewayClient
from actors.researcher.types import Decision, Observation
from cluster.config import CampaignConfig


class Brain(Protocol):
    """Decides the calls of a turn."""

    async def decide(self, observation: Observation) -> Decision:
        """What to do in this turn. Raises `AarError` when it cannot decide now; see `retry_policy` for what follows."""


@dataclass(frozen=True, slots=True)
class BrainContext:
    """What a brain is made of: who thinks, what it may call, and the model that it may ask."""

    config: CampaignConfig
    researcher: str
    direction: str
    task: dict[str, Any]
    tools: list[dict[str, Any]]
    """Descriptions, as a language model takes them."""
    model: GatewayClient
    notebook: Callable[[], str]


def _explorer(made_of: BrainContext) -> Brain:
    from actors.researcher.brains.explorer.brain import Explorer

    return Explorer.of(made_of.config, made_of.researcher)


def _claude(made_of: BrainContext) -> Brain:
    from actors.researcher.brains.llm.brain import Claude
    from actors.researcher.brains.llm.prompt import system_prompt
    from actors.researcher.brains.llm.requests import Requests

    config = made_of.config
    system = system_prompt(config, made_of.researcher, made_of.direction, made_of.task)
    requests = Requests(config.brain, system, made_of.tools)
    return Claude(requests, made_of.model, made_of.notebook)


BRAINS: dict[str, Callable[[BrainContext], Brain]] = {
    "explorer": _explorer,
    "claude": _claude,
    "local": _claude,
    "replay": _claude,
}
"""By `brain.kind`. `local` and `replay` differ in who answers the gateway, not in the brain."""


def make_brain(made_of: BrainContext) -> Brain:
    """The brain that the configuration names."""
    return BRAINS[made_of.config.brain.kind](made_of)
