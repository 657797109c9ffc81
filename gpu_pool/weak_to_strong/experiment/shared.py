"""What all runs on one strong model share: the model, the token ids, hidden states and priors, each computed once.

Of the test items it is what students read: ids, and states for those that are heads.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel
from gpu_pool.weak_to_strong.run import Log, MethodRun, RunParams
from gpu_pool.weak_to_strong.student import Inputs
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts, code_version
from gpu_pool.weak_to_strong.tasks.tables import text_version, token_table
from gpu_pool.weak_to_strong.tokens import TokenTable

LIBRARY = "gpu_pool.weak_to_strong"
MODEL_CODE = tuple(f"{LIBRARY}.{name}" for name in ("formats", "items", "tokens", "models"))
Feature = Literal["hidden", "prior", "swapped_hidden", "swapped_prior"]


class Shared:
    """The strong model on the unlabelled items; `seconds` is how long computing shared things has taken so far."""

    def __init__(
        self, model: LabelModel, model_key: str, items: ItemSet, artefacts: Artefacts, test: ItemSet | None = None
    ) -> None:
        """`model_key` names the weights, as ModelSource.key does; `test` are what students are scored on."""
        self.model = model
        self.items = items
        self.test = Inputs(model, items if test is None else test)
        self.seconds = 0.0
        self._key: dict[str, Any] = {
            "model": model_key,
            "device": model.device.type,
            "items": items.content_hash(),
            "text": text_version(model),
            "code": code_version(*MODEL_CODE),
        }
        self._artefacts = artefacts

    @cached_property
    def tokens(self) -> TokenTable:
        """Token ids of each item's text."""
        start = time.monotonic()
        tokens = token_table(self._artefacts, self.model, self.items)
        self.seconds += time.monotonic() - start
        return tokens

    def feature(self, name: Feature) -> FloatArray:
        """The states (n, L + 1, d) or the prior (n,) of the items, or of the swapped ones; read-only, memory-mapped."""
        start = time.monotonic()
        array = self._artefacts.arrays(
            name.removeprefix("swapped_"), self._key | {"of": name}, lambda: self._make(name)
        )
        self.seconds += time.monotonic() - start
        return array["values"]

    def _make(self, name: Feature) -> dict[str, npt.NDArray[Any]]:
        items = self.items.swap() if name.startswith("swapped") else self.items
        values = self.model.hidden(items) if name.endswith("hidden") else self.model.zero_shot(items)
        return {"values": np.ascontiguousarray(values)}


class SharedRun(MethodRun):
    """A method's run whose expensive inputs come from what is shared, when the method first asks for them."""

    def __init__(
        self,
        shared: Shared,
        weak: npt.ArrayLike,
        params: RunParams,
        log: Log | None = None,
        members: npt.ArrayLike | None = None,
    ) -> None:
        """`weak` (n,) and `members` (n, k) as `MethodRun` takes them."""
        super().__init__(shared.items, weak, shared.model, params, log, members)
        self._shared = shared

    @cached_property
    def tokens(self) -> TokenTable:
        """Token ids of each item's text."""
        return self._shared.tokens

    @cached_property
    def hidden(self) -> FloatArray:
        """States at the last position, float32 (n, L + 1, d)."""
        return self._shared.feature("hidden")

    @cached_property
    def prior(self) -> FloatArray:
        """Zero-shot prediction, float32 (n,)."""
        return self._shared.feature("prior")

    @cached_property
    def swapped_hidden(self) -> FloatArray:
        """`hidden` of the swapped pairs."""
        return self._shared.feature("swapped_hidden")

    @cached_property
    def swapped_prior(self) -> FloatArray:
        """`prior` of the swapped pairs."""
        return self._shared.feature("swapped_prior")
