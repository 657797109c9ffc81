"""The queue policy: fair shares, pilots first, ageing, backfill that delays nobody, slots never over-full."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scheduler.policy import (
    WHOLE,
    Grant,
    Held,
    PolicyConfig,
    SlotState,
    Usage,
    Waiting,
    choose,
    oldest_of,
    order_key,
)

SECOND = 1_000_000
CONFIG = PolicyConfig(ageing_us=60 * SECOND, share_step_ms=1000)


def ask(
    name: str, holder: str = "a", kind: str = "pilot", share: int = 500, seconds: int = 10, at: int = 0, n: int = 0
) -> Waiting:
    return Waiting(name, holder, kind, share, seconds * SECOND, at, n or int("".join(c for c in name if c.isdigit())))


def names(grants: list[Grant]) -> list[str]:
    return [g.request_id for g in grants]


def test_the_holder_that_used_less_goes_first() -> None:
    usage = {"a": Usage(50_000), "b": Usage(10_000)}
    waiting = [ask("r1", "a", share=1000), ask("r2", "b", share=1000)]
    assert choose(waiting, [SlotState("s")], usage, 0, CONFIG) == [Grant("r2", "s", True)]


def test_a_weight_of_three_stands_for_three_times_the_use() -> None:
    usage = {"a": Usage(50_000), "b": Usage(20_000)}
    waiting = [ask("r1", "a", share=1000), ask("r2", "b", share=1000)]
    config = PolicyConfig(share_step_ms=1000, weights={"a": 3})
    assert names(choose(waiting, [SlotState("s")], usage, 0, config)) == ["r1"]


def test_pilots_go_ahead_of_full_runs_at_equal_share_only() -> None:
    waiting = [ask("r1", "a", "full", share=1000), ask("r2", "b", "pilot", share=1000)]
    assert names(choose(waiting, [SlotState("s")], {}, 0, CONFIG)) == ["r2"]
    assert names(choose(waiting, [SlotState("s")], {"b": Usage(5000)}, 0, CONFIG)) == ["r1"]


def test_what_is_granted_counts_at_once_so_that_slots_are_shared() -> None:
    waiting = [ask(f"r{n}", "a") for n in range(1, 5)] + [ask("r5", "b"), ask("r6", "b")]
    assert names(choose(waiting, [SlotState("s"), SlotState("t")], {}, 0, CONFIG)) == ["r1", "r5", "r2", "r6"]


def test_the_fullest_slot_that_fits_is_taken_so_that_whole_slots_stay_whole() -> None:
    slots = [SlotState("s"), SlotState("t", (Held(500, SECOND),)), SlotState("u", (Held(800, SECOND),))]
    waiting = [ask("r1", share=500), ask("r2", "b", share=1000)]
    assert choose(waiting, slots, {}, 0, CONFIG) == [Grant("r1", "t", True), Grant("r2", "s", True)]


def test_fractions_fill_a_slot_exactly_in_integers() -> None:
    waiting = [ask(f"r{n}", share=100) for n in range(1, 13)]
    assert len(choose(waiting, [SlotState("s")], {}, 0, CONFIG)) == 10
    assert len(choose([ask(f"r{n}", share=50) for n in range(1, 30)], [SlotState("s")], {}, 0, CONFIG)) == 20
    assert len(choose([ask("r1", share=333), ask("r2", share=667)], [SlotState("s")], {}, 0, CONFIG)) == 2
    assert len(choose([ask("r1", share=334), ask("r2", share=667)], [SlotState("s")], {}, 0, CONFIG)) == 1


def test_only_what_cannot_delay_the_first_starts_before_it() -> None:
    """The whole-slot request waits for t=20 s on `s`; there, others start only when they end by then."""
    slots = [SlotState("s", (Held(500, 20 * SECOND),)), SlotState("t", (Held(900, 90 * SECOND),))]
    usage = {"b": Usage(90_000)}
    large = ask("r1", "a", share=1000)
    short = ask("r2", "b", share=400, seconds=20)
    long = ask("r3", "b", share=400, seconds=21)
    small = ask("r4", "b", share=100, seconds=500)
    assert choose([large, long], slots, usage, 0, CONFIG) == []
    assert choose([large, short], slots, usage, 0, CONFIG) == [Grant("r2", "s", True)]
    assert choose([large, small], slots, usage, 0, CONFIG) == [Grant("r4", "t", True)]


def test_what_the_first_leaves_over_can_be_used_for_long() -> None:
    slots = [SlotState("s", (Held(600, 20 * SECOND),))]
    first = ask("r1", "a", share=700)
    beside = [ask("r2", "b", share=200, seconds=900), ask("r3", "b", share=200, seconds=900)]
    assert names(choose([first, *beside], slots, {"b": Usage(90_000)}, 0, CONFIG)) == ["r2"]


def test_an_overdue_request_goes_ahead_of_every_share() -> None:
    usage = {"a": Usage(900_000), "b": Usage(0)}
    waiting = [ask("r1", "a", "full", share=1000), ask("r2", "b", share=1000)]
    slot = [SlotState("s")]
    assert names(choose(waiting, slot, usage, 59 * SECOND, CONFIG)) == ["r2"]
    assert names(choose(waiting, slot, usage, 60 * SECOND, CONFIG)) == ["r1"]


def test_a_flood_wins_one_turn_per_ageing_time_only() -> None:
    waiting = [ask(f"r{n}", "flood", share=1000) for n in range(1, 100)] + [
        ask("r200", "b", share=1000, at=90 * SECOND)
    ]
    usage = {"flood": Usage(500_000, turn_us=80 * SECOND)}
    assert names(choose(waiting, [SlotState("s")], usage, 100 * SECOND, CONFIG)) == ["r200"]


def test_nothing_is_granted_without_slots_or_room() -> None:
    assert choose([ask("r1")], [], {}, 0) == []
    assert choose([ask("r1")], [SlotState("s", (Held(501, SECOND),))], {}, 0) == []
    assert choose([], [SlotState("s")], {}, 0) == []


REQUEST = st.tuples(
    st.sampled_from("abcd"), st.sampled_from(["pilot", "full", "baseline"]), st.integers(50, 1000), st.integers(1, 99)
)


@given(
    st.lists(REQUEST, max_size=25),
    st.lists(st.lists(st.integers(50, 400), max_size=2), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 10**6)),
    st.integers(0, 200),
)
@settings(deadline=None, max_examples=120)
def test_grants_never_overfill_a_slot_and_are_deterministic(
    asked: list[tuple[str, str, int, int]], busy: list[list[int]], used: dict[str, int], now: int
) -> None:
    waiting = [ask(f"r{n}", h, k, share, s, n=n + 1) for n, (h, k, share, s) in enumerate(asked)]
    slots = [SlotState(f"s{n}", tuple(Held(share, share * SECOND) for share in held)) for n, held in enumerate(busy)]
    usage = {h: Usage(ms) for h, ms in used.items()}
    grants = choose(waiting, slots, usage, now * SECOND, CONFIG)
    assert grants == choose(list(reversed(waiting)), slots, usage, now * SECOND, CONFIG)
    assert len(set(names(grants))) == len(grants)
    by_id = {w.request_id: w for w in waiting}
    for slot in slots:
        share = sum(by_id[g.request_id].thousandths for g in grants if g.slot == slot.name)
        assert share <= slot.free
    if waiting and max((s.free for s in slots), default=0) > 0:
        oldest = oldest_of(waiting)
        first = min(waiting, key=lambda w: order_key(w, oldest, usage, now * SECOND, CONFIG))
        assert (first.thousandths <= max(s.free for s in slots)) == (names(grants)[:1] == [first.request_id])


@dataclass
class World:
    """Time in whole seconds; leases end when they are due or sooner; the policy is asked every second."""

    slots: int
    config: PolicyConfig
    random: random.Random
    early: bool = True
    now: int = 0
    waiting: list[Waiting] = field(default_factory=list)
    running: list[tuple[Waiting, str, int, int]] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    started: dict[str, int] = field(default_factory=dict)

    def step(self) -> None:
        for lease in [r for r in self.running if r[3] <= self.now]:
            self.running.remove(lease)
            request, _, start, end = lease
            self.used[request.holder] = self.used.get(request.holder, 0) + request.thousandths * (end - start)
        usage = {}
        for holder in {w.holder for w in self.waiting} | set(self.used):
            held = [r[0] for r in self.running if r[0].holder == holder]
            committed = sum(w.thousandths * w.duration_us // SECOND for w in held)
            usage[holder] = Usage(self.used.get(holder, 0) + committed, self.turns.get(holder, 0))
        states = [
            SlotState(
                s, tuple(Held(r[0].thousandths, r[2] * SECOND + r[0].duration_us) for r in self.running if r[1] == s)
            )
            for s in (f"s{n}" for n in range(self.slots))
        ]
        by_id = {w.request_id: w for w in self.waiting}
        for grant in choose(self.waiting, states, usage, self.now * SECOND, self.config):
            request = by_id[grant.request_id]
            self.waiting.remove(request)
            seconds = request.duration_us // SECOND
            end = self.now + (self.random.randint(1, seconds) if self.early else seconds)
            self.running.append((request, grant.slot, self.now, end))
            self.started[request.request_id] = self.now
            if grant.oldest:
                self.turns[request.holder] = self.now * SECOND
        self.now += 1


def test_shares_follow_the_weights_when_everybody_always_wants_more() -> None:
    world = World(2, PolicyConfig(ageing_us=10**15, share_step_ms=1000, weights={"b": 3}), random.Random(1))
    count = 0
    for _ in range(4000):
        for holder in ("a", "b"):
            while sum(w.holder == holder for w in world.waiting) < 4:
                count += 1
                share = world.random.choice([250, 500, 1000])
                world.waiting.append(ask(f"r{count}", holder, share=share, seconds=10, at=world.now * SECOND))
        world.step()
    assert 2.7 < world.used["b"] / world.used["a"] < 3.3
    assert sum(world.used.values()) > 0.9 * 2 * WHOLE * 4000


LONGEST = 20
PLAN = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from("abc"), st.integers(50, 1000), st.integers(1, LONGEST)), max_size=12
)


@given(PLAN, st.integers(1, 2), st.integers(0, 10**6), st.booleans())
@settings(deadline=None, max_examples=40)
def test_every_request_starts_within_its_bound_under_a_flood(
    plan: list[tuple[int, str, int, int]], slots: int, seed: int, early: bool
) -> None:
    """Bound: (older requests of its holder + 1) x (ageing + holders x longest); four always want small pilots."""
    world = World(slots, CONFIG, random.Random(seed), early)
    count, bounds = 0, dict[str, int]()
    due = sorted(plan)
    while due or any(w.request_id in bounds for w in world.waiting):
        assert world.now < 20_000
        arrivals = [entry for entry in due if entry[0] <= world.now]
        due = due[len(arrivals) :]
        for _, holder, share, seconds in arrivals:
            count += 1
            older = sum(w.holder == holder for w in world.waiting)
            bounds[f"r{count}"] = world.now + (older + 1) * (60 + 7 * (LONGEST + 1))
            world.waiting.append(ask(f"r{count}", holder, "full", share, seconds, at=world.now * SECOND))
        for holder in ("x", "y", "z", "a"):
            while sum(w.holder == holder and w.request_id not in bounds for w in world.waiting) < 2:
                count += 1
                share, seconds = world.random.randint(50, 500), world.random.randint(1, LONGEST)
                world.waiting.append(ask(f"r{count}", holder, "pilot", share, seconds, at=world.now * SECOND))
        world.step()
    for name, bound in bounds.items():
        assert world.started[name] <= bound


def test_a_large_request_starves_without_ageing_and_backfill_rules() -> None:
    """The test above has teeth: the same flood against a policy that never ages keeps a heavy user waiting."""
    world = World(1, PolicyConfig(ageing_us=10**15, share_step_ms=1000), random.Random(3))
    world.used["a"] = 10**9
    world.waiting.append(ask("r0", "a", "full", 1000, 10, n=0))
    for n in range(1, 1000):
        world.waiting.append(ask(f"r{n}", "x", share=300, seconds=5, at=world.now * SECOND))
        world.step()
    assert "r0" not in world.started
