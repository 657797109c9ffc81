"""Calls to slots: one lease handed over, one answer or the reason why there is none.

Promise: `ask` never raises what a slot did wrong. A slot that fails rests for a while, longer with each failure in a
row, so that a broken one does not eat the attempts of every lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from actors.scheduler.book import RESULT_LIMIT
from cluster.storage import StorageError
from cluster.wire import WireError, pack
from gpu_pool.client import SlotClient
from gpu_pool.leases import ClosedError, Lease, LeaseResult, LeaseStatus

log = logging.getLogger(__name__)

_LONGEST_REST = 10
"""A rest is at most this many times `rest_s`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A slot's result, or `None` and the reason. `excused`: the slot itself was at fault, and said so."""

    result: LeaseResult | None
    fault: str
    excused: bool = False


@dataclass(slots=True)
class _Rest:
    failures: int
    until: float


class SlotCalls:
    """The way to the slots, and which of them rest."""

    def __init__(self, connect: Callable[[str], SlotClient], rest_s: float) -> None:
        """`connect(actor name)` reaches a slot; `rest_s` is the rest after a first failure, seconds."""
        self._connect = connect
        self._rest_s = rest_s
        self._rests: dict[str, _Rest] = {}

    def resting(self, slot: str) -> bool:
        """Whether the slot is to get no lease at the moment."""
        rest = self._rests.get(slot)
        return rest is not None and time.monotonic() < rest.until

    def wake(self, slot: str) -> None:
        """Forget the slot's failures."""
        self._rests.pop(slot, None)

    async def cancel(self, actor: str, lease_id: str) -> None:
        """Ask a slot to end a lease."""
        await self._connect(actor).cancel(lease_id)

    async def ask(self, actor: str, lease: Lease, timeout_s: float) -> Answer:
        """How the slot answered."""
        call = asyncio.ensure_future(self._connect(actor).run(lease))
        try:
            await asyncio.wait({call}, timeout=timeout_s)
        finally:
            call.cancel()
        result, fault = _read(call, lease.id)
        if result is None:
            self._rest(lease.slot)
            log.warning("lease %s: slot %s %s", lease.id, lease.slot, fault)
            excused = call.done() and not call.cancelled() and isinstance(call.exception(), (StorageError, ClosedError))
            return Answer(None, f"slot {lease.slot} {fault}"[:400], excused)
        self.wake(lease.slot)
        return Answer(result, f"slot {lease.slot} lost it" if result.status == "lost" else "")

    def _rest(self, slot: str) -> None:
        failures = self._rests[slot].failures + 1 if slot in self._rests else 1
        self._rests[slot] = _Rest(failures, time.monotonic() + self._rest_s * min(failures, _LONGEST_REST))


def _read(call: asyncio.Future[LeaseResult], lease_id: str) -> tuple[LeaseResult | None, str]:
    if not call.done():
        return None, "did not answer in time"
    error = asyncio.CancelledError("the call was cancelled") if call.cancelled() else call.exception()
    if error is not None:
        return None, f"failed: {type(error).__name__}: {error}"
    try:
        result = call.result()
        size = len(pack(result.to_dict()))
    except (AttributeError, TypeError, ValueError, WireError) as fault:
        return None, f"gave an unusable answer: {type(fault).__name__}: {fault}"
    if result.lease_id != lease_id or result.status not in get_args(LeaseStatus) or size > RESULT_LIMIT:
        return None, f"gave an unusable answer: {result.status!r} for {result.lease_id!r}, {size} bytes"
    return result, ""
