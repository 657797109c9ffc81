"""What a request must be before it is queued, and what it may cost at worst. Pure.

A refusal names the field, its value and what was expected, or the limit that was passed, for a brain to act on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

from actors.scheduler.policy import WHOLE
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.money import Amounts, gpu_cost
from cluster.wire import MAX_FRAME, WireError, pack, unpack
from gpu_pool.leases import LeaseKind, LeaseRequest

MIN_THOUSANDTHS = 50
"""A twentieth of a GPU: below it a lease is all overhead."""
MAX_SECONDS = 30 * 86_400
_MAX_STEPS = 500
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Demand:
    """The integers of a request: share in thousandths of a GPU, longest duration, its bytes, its worst-case cost."""

    thousandths: int
    duration_ms: int
    packed: bytes
    worst: Amounts


def same_request(one: bytes, other: bytes) -> bool:
    """Whether two packed requests ask for the same, wherever files of their inputs lie (a campaign may have moved)."""
    return _asked(one) == _asked(other)


def _asked(packed: bytes) -> dict[str, Any]:
    data: dict[str, Any] = unpack(packed, MAX_FRAME)
    for step in data["job"]["steps"]:
        step["inputs"] = {name: place if place.startswith("@") else "" for name, place in step["inputs"].items()}
    return data


def holder_of(account: str) -> str:
    """Whose share a lease counts for: `campaign/researcher/<id>` of any account below it, else `campaign/<office>`."""
    parts = account.split("/")
    return "/".join(parts[: 3 if len(parts) > 2 and parts[1] == "researcher" else 2])


def cost_of(gpu_ms: int, usd_per_gpu_hour: int) -> Amounts:
    """What `gpu_ms` GPU-milliseconds cost at a price in micro-dollars per GPU-hour."""
    return Amounts(usd=gpu_cost(gpu_ms, usd_per_gpu_hour), gpu_ms=gpu_ms)


def check_request(request: LeaseRequest, usd_per_gpu_hour: int, most_memory: int | None = None) -> Demand:
    """The demand of a request; `most_memory` is what a slot gives one lease, bytes.

    Raises `RefusedError`: "malformed" or "larger_than_any_slot".
    """
    _check_texts(request)
    thousandths = _thousandths(request.gpus)
    duration_ms = _milliseconds(request.seconds)
    _whole("memory_bytes", request.memory_bytes)
    if most_memory is not None and request.memory_bytes > most_memory:
        detail = {"asked": request.memory_bytes, "largest_slot": most_memory}
        text = f"memory_bytes: {request.memory_bytes} is more than a slot gives one lease ({most_memory})"
        exceeded = LimitExceeded("memory_bytes", request.account, most_memory, request.memory_bytes, "scheduler")
        raise RefusedError(Reason.LARGER_THAN_ANY_SLOT, text, detail, exceeded)
    _check_steps(request)
    try:
        packed = pack(request.to_dict())
    except WireError as error:
        raise _malformed("job", "...", f"plain data ({error})") from error
    if len(packed) > MAX_FRAME:
        raise _malformed("job", f"{len(packed)} bytes", f"at most {MAX_FRAME} bytes; large inputs travel as files")
    gpu_ms = -(-thousandths * duration_ms // WHOLE)
    return Demand(thousandths, duration_ms, packed, cost_of(gpu_ms, usd_per_gpu_hour))


def _malformed(field: str, value: Any, expected: str) -> RefusedError:
    shown = repr(value)[:80]
    detail = {"field": field, "value": shown, "expected": expected}
    return RefusedError(Reason.MALFORMED, f"{field}: {shown} is not valid; expected {expected}", detail)


def _check_texts(request: LeaseRequest) -> None:
    for field, text, least in (("key", request.key, 1), ("account", request.account, 1), ("label", request.label, 0)):
        if not isinstance(text, str) or not least <= len(text) <= _MAX_TEXT:
            raise _malformed(field, text, f"a text of {least} to {_MAX_TEXT} characters")
    if request.kind not in get_args(LeaseKind):
        raise _malformed("kind", request.kind, f"one of {', '.join(get_args(LeaseKind))}")


def _number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _malformed(field, value, "a finite number")
    return value


def _whole(field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 60:
        raise _malformed(field, value, "a positive integer")


def _thousandths(gpus: Any) -> int:
    number = _number("gpus", gpus)
    if number > 1:
        detail = {"asked": number, "largest_slot": 1, "smallest": MIN_THOUSANDTHS / WHOLE}
        text = f"gpus: {number} is larger than any slot; a lease is a fraction of one GPU, at most 1"
        raise RefusedError(
            Reason.LARGER_THAN_ANY_SLOT, text, detail, LimitExceeded("gpus", "a slot", 1, number, "scheduler")
        )
    thousandths = round(number * WHOLE)
    if thousandths < MIN_THOUSANDTHS:
        raise _malformed("gpus", gpus, f"a fraction from {MIN_THOUSANDTHS / WHOLE} to 1")
    return thousandths


def _milliseconds(seconds: Any) -> int:
    number = _number("seconds", seconds)
    if not 0 < number <= MAX_SECONDS:
        raise _malformed("seconds", seconds, f"more than 0, at most {MAX_SECONDS}")
    return math.ceil(number * 1000)


def _check_steps(request: LeaseRequest) -> None:
    names = [step.name for step in request.job.steps]
    if not 0 < len(names) <= _MAX_STEPS:
        raise _malformed("job.steps", f"{len(names)} steps", f"1 to {_MAX_STEPS} steps")
    if len(set(names)) != len(names):
        raise _malformed("job.steps", names, "distinct step names")
