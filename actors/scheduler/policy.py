"""The order of the queue and the place of each lease: a pure function from state to grants.

Order: requests that are overdue first; then by weighted fair share, i.e. GPU time of the holder (used and held) over
its weight, in steps of `share_step_ms`; at equal share pilots ahead of the rest; then by age.

Nothing starves. The clock of a holder's *oldest* waiting request runs since it was submitted or since the holder's last
older request was granted, whichever is later. After `ageing_us` on this clock it is overdue and goes ahead of all
requests whose clock started later, whatever their share. A holder has at most one overdue request, so that a flood of
requests overtakes nobody: it wins one turn per `ageing_us` at most.

The first request that fits no slot gets a reservation: the slot and time at which enough of it will be free, since
leases end on time. Later requests may start before it (backfill) only where they cannot delay it.

All capacities are integer thousandths of a GPU; the sum of the leases on a slot is never above 1000.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

WHOLE = 1000
"""Thousandths of one slot."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """`weights` by holder (default 1); a holder of weight 2 gets twice the GPU time."""

    ageing_us: int = 120_000_000
    share_step_ms: int = 5_000
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued request: its share of a slot in thousandths, its longest duration, when and in which order it came."""

    request_id: str
    holder: str
    kind: str
    thousandths: int
    duration_us: int
    submitted_us: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Held:
    """A part of a slot that is in use until `ends_us` at the latest."""

    thousandths: int
    ends_us: int


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot that may take leases, and what it holds."""

    name: str
    held: tuple[Held, ...] = ()

    @property
    def free(self) -> int:
        """Thousandths that nobody holds."""
        return WHOLE - sum(h.thousandths for h in self.held)

    def with_lease(self, thousandths: int, ends_us: int) -> SlotState:
        """The slot with one more lease."""
        return replace(self, held=(*self.held, Held(thousandths, ends_us)))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a holder used and holds, and when its oldest waiting request was last granted (0: never)."""

    gpu_ms: int = 0
    turn_us: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """The decision: this request on this slot, now. `oldest`: it was its holder's oldest, so its clock starts anew."""

    request_id: str
    slot: str
    oldest: bool


@dataclass(frozen=True, slots=True)
class _Promise:
    """The reservation of a request that waits for room: from `at_us` it starts on `slot`; `spare` is left beside it."""

    slot: str
    at_us: int
    spare: int


def choose(
    waiting: Sequence[Waiting],
    slots: Sequence[SlotState],
    usage: Mapping[str, Usage],
    now_us: int,
    config: PolicyConfig | None = None,
) -> list[Grant]:
    """The grants to make now, in order. Deterministic; the inputs are not changed."""
    config = config or PolicyConfig()
    pending = {w.request_id: w for w in waiting}
    state = {s.name: s for s in slots}
    shares = dict(usage)
    blocked: set[str] = set()
    promise: _Promise | None = None
    grants: list[Grant] = []
    progress = True
    while progress and any(s.free > 0 for s in state.values()):
        progress = False
        oldest = oldest_of(pending.values())
        open_requests = [w for w in pending.values() if w.request_id not in blocked]
        for request in sorted(open_requests, key=lambda w: order_key(w, oldest, shares, now_us, config)):
            slot = _place(request, list(state.values()), promise, now_us)
            if slot is None:
                blocked.add(request.request_id)
                promise = promise or _promise(request, list(state.values()), now_us)
                continue
            is_oldest = oldest[request.holder] == request.request_id
            grants.append(Grant(request.request_id, slot, is_oldest))
            del pending[request.request_id]
            ends_us = now_us + request.duration_us
            if promise is not None and slot == promise.slot and ends_us > promise.at_us:
                promise = replace(promise, spare=promise.spare - request.thousandths)
            state[slot] = state[slot].with_lease(request.thousandths, ends_us)
            shares[request.holder] = _after(shares.get(request.holder, Usage()), request, is_oldest, now_us)
            progress = True
            break
    return grants


def _after(before: Usage, granted: Waiting, oldest: bool, now_us: int) -> Usage:
    held = granted.thousandths * granted.duration_us // (WHOLE * 1000)
    return Usage(before.gpu_ms + held, now_us if oldest else before.turn_us)


def oldest_of(waiting: Iterable[Waiting]) -> dict[str, str]:
    """The request id of each holder's oldest waiting request, by holder."""
    first: dict[str, Waiting] = {}
    for request in waiting:
        known = first.get(request.holder)
        if known is None or request.sequence < known.sequence:
            first[request.holder] = request
    return {holder: request.request_id for holder, request in first.items()}


def order_key(
    request: Waiting, oldest: Mapping[str, str], usage: Mapping[str, Usage], now_us: int, config: PolicyConfig
) -> tuple[int, ...]:
    """The place of a request in the queue; smaller goes first."""
    mine = usage.get(request.holder, Usage())
    if oldest[request.holder] == request.request_id:
        since = max(request.submitted_us, mine.turn_us)
        if now_us - since >= config.ageing_us:
            return (0, since, 0, request.sequence)
    share = mine.gpu_ms // (config.share_step_ms * max(1, config.weights.get(request.holder, 1)))
    return (1, share, 0 if request.kind == "pilot" else 1, request.sequence)


def _place(request: Waiting, slots: Sequence[SlotState], promise: _Promise | None, now_us: int) -> str | None:
    """The fullest slot that has room and may be used, so that whole slots stay whole; `None` when there is none."""
    fitting = [s for s in slots if s.free >= request.thousandths and _may_use(request, s, promise, now_us)]
    return min(fitting, key=lambda s: (s.free, s.name)).name if fitting else None


def _may_use(request: Waiting, slot: SlotState, promise: _Promise | None, now_us: int) -> bool:
    if promise is None or slot.name != promise.slot:
        return True
    return now_us + request.duration_us <= promise.at_us or request.thousandths <= promise.spare


def _promise(request: Waiting, slots: Sequence[SlotState], now_us: int) -> _Promise | None:
    """The earliest time at which some slot has room for the request, when every lease uses all its time."""
    best: _Promise | None = None
    for slot in slots:
        free = slot.free
        for held in sorted(slot.held, key=lambda h: h.ends_us):
            free += held.thousandths
            if free >= request.thousandths:
                at = max(held.ends_us, now_us)
                if best is None or (at, slot.name) < (best.at_us, best.slot):
                    best = _Promise(slot.name, at, free - request.thousandths)
                break
    return best
