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
    """What a brain is made with: who thinks, what it may call, and the model that it may ask."""

    config: CampaignConfig
    researcher: str
    direction: str
    task: dict[str, Any]
    tools: list[dict[str, Any]]
    """Descriptions, as a language model takes them."""
    model: GatewayClient
    notebook: Callable[[], str]


def _explorer(context: BrainContext) -> Brain:
    from actors.researcher.brains.explorer.brain import Explorer

    return Explorer.of(context.config, context.researcher)


def _language_model(context: BrainContext) -> Brain:
    from actors.researcher.brains.llm.brain import LanguageModel
    from actors.researcher.brains.llm.prompt import system_prompt
    from actors.researcher.brains.llm.requests import Requests

    config = context.config
    system = system_prompt(config, context.researcher, context.direction, context.task)
    requests = Requests(config.brain, system, context.tools)
    return LanguageModel(requests, context.model, context.notebook)


BRAINS: dict[str, Callable[[BrainContext], Brain]] = {
    "explorer": _explorer,
    "claude": _language_model,
    "local": _language_model,
    "replay": _language_model,
}
"""By `brain.kind`. `local` and `replay` differ in who answers the gateway, not in the brain."""


def make_brain(context: BrainContext) -> Brain:
    """The brain that the configuration names."""
    return BRAINS[context.config.brain.kind](context)
