"""What crosses between scheduler, slot and sandbox: steps, jobs, requests, leases and their results.

A lease is the right to a fraction of one slot until a time. Its job is a list of steps; each step runs in a forked
child of a sandbox. All types are plain data with `to_dict` and `from_dict`, because they cross actors and are written
to disk before anything is done.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cluster.errors import AarError

Entry = Literal["method", "pretrain", "teacher", "ceiling", "predict", "features", "initial", "shell", "probe", "serve"]
FOREIGN_ENTRIES = frozenset({"method", "shell", "probe"})
"""Entries that run code from outside the library; all others but `serve` run in sandboxes of the library.

`serve` is a model server in a sandbox of its own; the slot's configuration says which, the step says nothing."""

StepStatus = Literal["ok", "error", "timeout", "memory", "crashed", "bad_output", "skipped"]
LeaseKind = Literal["pilot", "full", "baseline", "serve"]
LeaseStatus = Literal["done", "expired", "lost", "cancelled"]


class ClosedError(AarError):
    """A slot that is being taken down carries no lease out."""


@dataclass(frozen=True, slots=True)
class Step:
    """One forked child of a sandbox.

    `inputs` maps a file name inside `/in` to a host path, or to `@<step>/<file>`, an output of an earlier step of the
    same lease. A host path that is a directory appears as a directory. `outputs` maps file names in `/out` to the most
    bytes that are read back; names in `optional` may be missing. `seconds` is the wall limit; `params` is plain data.
    """

    name: str
    entry: Entry
    inputs: dict[str, str]
    params: dict[str, Any]
    outputs: dict[str, int]
    seconds: float
    optional: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Step:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**data, "optional": tuple(data.get("optional", ()))})


@dataclass(frozen=True, slots=True)
class Job:
    """The steps of a lease, in order. With `stop_on_error` the rest is skipped after a failed step."""

    steps: tuple[Step, ...]
    stop_on_error: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        return cls(tuple(Step.from_dict(s) for s in data["steps"]), bool(data["stop_on_error"]))


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What a holder asks of the scheduler.

    `key` makes the request idempotent. `account` pays. `gpus` is a fraction from 0.05 to 1; `seconds` is the longest
    wall time of the whole job, all of which is reserved. `label` names the run for people.
    """

    key: str
    account: str
    kind: LeaseKind
    gpus: float
    seconds: float
    job: Job
    label: str = ""
    memory_bytes: int = 3 << 30

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LeaseRequest:
        """The inverse of `to_dict`."""
        return cls(**{**data, "job": Job.from_dict(data["job"])})


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted request: which slot, which share of its threads, which directory holds its results."""

    id: str
    request: LeaseRequest
    slot: str
    threads: int
    directory: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Lease:
        """The inverse of `to_dict`."""
        return cls(**{**data, "request": LeaseRequest.from_dict(data["request"])})


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended. `first_line_ms` is the time from the hand-over to the first line of the step's own code."""

    name: str
    status: StepStatus
    error: str
    seconds: float
    first_line_ms: float | None
    outputs: dict[str, str]
    log: str
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the step ended well and all its outputs are there."""
        return self.status == "ok"


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """How a lease ended and what it used. Times are Unix microseconds; `gpu_ms` is never above what was reserved."""

    lease_id: str
    status: LeaseStatus
    steps: tuple[StepResult, ...]
    gpu_ms: int
    started_us: int
    ended_us: int
    slot: str
    node: str
    gpu_name: str
    sandbox_grade: str
    probe_hash: str

    def step(self, name: str) -> StepResult:
        """The result of a step by name. Raises `KeyError`."""
        for result in self.steps:
            if result.name == name:
                return result
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LeaseResult:
        """The inverse of `to_dict`."""
        return cls(**{**data, "steps": tuple(StepResult(**s) for s in data["steps"])})


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """What the scheduler knows of a slot."""

    name: str
    node: str
    gpu_name: str
    threads: int
    sandbox_grade: str
    probe_hash: str
