"""What a brain is, and which there are.

The contract of every brain: `decide` is a function of the observation and of what the brain was made with. It
keeps nothing between calls that it could not build again from `observation.history`, because a restarted
researcher makes a new one. No call is an empty turn; a `finish` call ends the work. When `observation.seen.ending` is
set the turn is the last, and only free tools will run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from actors.researcher.types import Decision, Observation
from cluster.config import CampaignConfig
from cluster.errors import AarError


class Brain(Protocol):
    """Decides the calls of a turn."""

    async def decide(self, observation: Observation) -> Decision:
        """What to do in this turn. Raises `AarError` when it cannot decide now; see `patience` for what follows."""


BrainFactory = Callable[[CampaignConfig, str, list[dict[str, Any]]], Brain]
"""From configuration, researcher id and the descriptions of the offered tools to a brain."""


def _explorer(config: CampaignConfig, researcher: str, tools: list[dict[str, Any]]) -> Brain:
    from actors.researcher.brains.explorer import Explorer

    return Explorer.of(config, researcher)


BRAINS: dict[str, BrainFactory] = {"explorer": _explorer}


def make_brain(config: CampaignConfig, researcher: str, tools: list[dict[str, Any]]) -> Brain:
    """The brain that the configuration names. Raises `AarError` for an unknown kind."""
    kind = config.brain.kind
    if kind not in BRAINS:
        raise AarError(f"brain.kind: {kind!r} is unknown; expected one of {', '.join(BRAINS)}")
    return BRAINS[kind](config, researcher, tools)
