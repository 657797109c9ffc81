"""What researchers see of a domain: items, one teacher's labels of them, hidden states, prior and the strong model.

Of a generated domain that is a world of its own, the public one, when counted runs happen in a secret one: nothing that
is learnt of its facts, words, items or weights is true there. Of a task from files it is a part of the counted pool.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from actors.evaluator.reference_runs import ReferenceRuns, Tools
from actors.evaluator.tiers import Tier
from gpu_pool.weak_to_strong.items import ItemSet

TEACHER = 0
_TIER: Tier = (
    "dev"  # whose items the teacher of a public world answers, for no other reason than that every teacher does
)


class Practice:
    """The public side of one domain, made from `reference_runs`."""

    def __init__(self, tools: Tools, shared: ReferenceRuns) -> None:
        self._t, self._shared = tools, shared

    async def ready(self) -> None:
        """Have models, teacher and hidden states made. Raises as `LeaseClient.run`."""
        await asyncio.gather(self._shared.teachers(_TIER, [TEACHER]), self._shared.features())

    def items(self) -> ItemSet:
        """The items (n)."""
        return self._t.splits.split("pool_a").items

    def files(self) -> dict[str, Path]:
        """Safetensors by public name; the first n rows of every array belong to the items."""
        return {
            "weak.safetensors": self._shared.weak_file(TEACHER),
            "features.safetensors": self._shared.features_file,
            "prior.safetensors": self._shared.prior_file,
        }

    @property
    def strong(self) -> Path:
        """The strong model's folder."""
        return self._shared.models.folder("strong")
