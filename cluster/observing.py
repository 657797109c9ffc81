"""What observes never fails what it observes.

Who pays, scores or decides tells its figures through `Guarded`, and runs other observers through a `Guard`. What they
raise reaches nobody, and is counted: `failed` belongs into the status of its owner, where people see it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from cluster.text import visible_line

log = logging.getLogger(__name__)


class Sink(Protocol):
    """What takes figures, as `Metrics` does."""

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Add to a counter."""

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Add one observation to a histogram."""


class Guard:
    """Runs observers for somebody who must not fail with them, and counts what failed."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, str]] = {}

    def run(self, what: str, observe: Callable[[], object]) -> None:
        """Call `observe`; an error is counted under `what`, and logged when it is another one than before."""
        try:
            observe()
        except Exception as error:  # noqa: BLE001  # whatever an observer raises is counted, and shown by `failed`
            self.note(what, error)

    def note(self, what: str, error: BaseException) -> None:
        """Count an error of an observer that was run elsewhere."""
        text = visible_line(f"{type(error).__name__}: {error}"[:300])
        times, last = self._failed.get(what, (0, ""))
        self._failed[what] = (times + 1, text)
        if text != last:
            log.warning("not observed: %s: %s", what, text)

    def failed(self) -> dict[str, dict[str, Any]]:
        """What could not be observed: how many `times`, and the `last` error. Empty as long as all is well."""
        return {what: {"times": times, "last": last} for what, (times, last) in self._failed.items()}


class Guarded:
    """A sink that never raises; `sink` may be `None`, where nobody wants figures."""

    def __init__(self, sink: Sink | None, guard: Guard) -> None:
        self._sink, self._guard = sink, guard

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """As `Metrics.count`."""
        if (sink := self._sink) is not None:
            self._guard.run(f"metric {name}", lambda: sink.count(name, value, **tags))

    def set(self, name: str, value: float, **tags: str) -> None:
        """As `Metrics.set`."""
        if (sink := self._sink) is not None:
            self._guard.run(f"metric {name}", lambda: sink.set(name, value, **tags))

    def observe(self, name: str, value: float, **tags: str) -> None:
        """As `Metrics.observe`."""
        if (sink := self._sink) is not None:
            self._guard.run(f"metric {name}", lambda: sink.observe(name, value, **tags))
