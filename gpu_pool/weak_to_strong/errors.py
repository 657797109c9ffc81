"""The errors of the weak-to-strong library: each names what was wrong with what it was given."""

from __future__ import annotations

from cluster.errors import AarError


class W2SError(AarError):
    """Root of this library's errors."""


class ItemError(W2SError):
    """Items or an item file are malformed."""


class ModelError(W2SError):
    """A model folder is incomplete or does not fit the task."""


class StudentError(W2SError):
    """A student file is refused, or a student gives no usable probabilities."""


class TrainingError(W2SError):
    """Training cannot start or went wrong (wrong shapes, a loss that is not finite)."""


class DeadlineError(W2SError):
    """The run's time is over; raised between two training steps."""


class MethodError(W2SError):
    """A method file cannot be loaded or does not keep the contract."""


class TaskError(W2SError):
    """A task cannot be read or built: a broken row, a missing label, an empty split, one class only."""


class ArtefactError(W2SError):
    """A cached result cannot be named, made or stored."""
