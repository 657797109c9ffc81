"""The scheduler: takes requests for shares of GPUs, keeps them in order, runs them on slots, settles what they cost.

Invariants:
- A request, its reservation and its journal event are written in one transaction; so are its end, the settlement and
  that event. No crash leaves one without the other.
- A lease is written down before its slot hears of it. Leases that a restarted scheduler finds running are dispatched
  again, which is harmless, since a slot runs a lease id once.
- A lease that is lost (its slot says so, fails or does not answer) goes back to its place in the queue as a new
  lease; after `attempts` of them the request ends as "lost" and costs nothing. An attempt does not count when the slot
  had no room, was being taken down, or does not exist any more.
- While it is paused, or closed, it grants nothing; requests are taken and wait.

Nothing is kept in memory but tasks, waiters and the rests of failing slots.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.scheduler.admission import check_request, cost_of, holder_of, same_request
from actors.scheduler.book import Book, Entry, State, unused_result
from actors.scheduler.ledger import Ledger
from actors.scheduler.policy import WHOLE, PolicyConfig, SlotState, choose
from actors.scheduler.report import describe
from actors.scheduler.slots import SlotCalls
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.journal import Journal
from cluster.money import Amounts, Balance, Caps
from cluster.objects import sha256_hex
from cluster.store import Store
from cluster.wire import pack
from gpu_pool.client import SlotClient
from gpu_pool.leases import Lease, LeaseRequest, LeaseResult, SlotInfo

log = logging.getLogger(__name__)
MOST_EXCUSED = 20
"""Attempts of one request that do not count: foreign code that fills a disk each time must not run without end."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """`usd_per_gpu_hour` in micro-dollars; `most_memory` of one lease in bytes; times in seconds.

    `grace_s`: how long after a lease's end its slot may still answer before the lease counts as lost.
    `rest_s`: a slot that failed gets no lease for this long, longer with each failure in a row, up to ten times.
    """

    usd_per_gpu_hour: int
    most_memory: int | None = None
    attempts: int = 3
    grace_s: float = 180.0
    rest_s: float = 2.0
    tick_s: float = 1.0
    queue_limit: int = 1000
    policy: PolicyConfig = field(default_factory=PolicyConfig)


class Scheduler:
    """The one spender of a campaign's budgets. Call `start` inside the event loop before anything else."""

    def __init__(
        self, store: Store, connect: Callable[[str], SlotClient], config: SchedulerConfig, leases_dir: Path
    ) -> None:
        """`connect(actor name)` reaches a slot; leases keep their files in `leases_dir/<lease id>`."""
        self.store = store
        self.journal = Journal(store)
        self.ledger = Ledger(store, self.journal)
        self.book = Book(store)
        self._slots = SlotCalls(connect, config.rest_s)
        self._config = config
        self._leases_dir = leases_dir
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: dict[str, asyncio.Event] = {}
        self._started = False
        self._closed = False
        self._paused = ""

    async def start(self) -> None:
        """Dispatch what was running before, and begin to grant. Repeated calls do nothing."""
        if self._started:
            return
        self._started = True
        known = self.book.slots()
        for entry in self.book.running():
            if entry.slot in known:
                self._dispatch(entry)
            else:
                self._requeue(entry, "its slot is not known any more", excused=True)
        self._keep_ticking()
        self.grant_leases()

    async def close(self) -> None:
        """Stop all tasks; leases go on in their slots and are found again at the next start."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def pause(self, reason: str) -> None:
        """Grant no leases until `go_on`; those that run go on. Not durable: whoever pauses says it again."""
        self._paused = reason

    async def go_on(self) -> None:
        """Grant leases again."""
        if self._paused:
            self._paused = ""
            self.grant_leases()

    # -- requests --------------------------------------------------------------------------------------------------

    async def submit(self, request: LeaseRequest) -> str:
        """Queue a request and reserve its worst case; its id. The same key again gives the same id.

        Raises `RefusedError` at once: "malformed", "larger_than_any_slot", "over_budget", "unknown_account",
        "queue_full", "key_reused" (the key belongs to another request).
        """
        known = self._known_request(request)
        if known is None:
            known = self._admit(request)
            self.grant_leases()
        return known.request_id

    def _known_request(self, request: LeaseRequest) -> Entry | None:
        known = self.book.by_key(request.key) if isinstance(request.key, str) else None
        if known is None:
            return None
        demand = check_request(request, self._config.usd_per_gpu_hour, self._config.most_memory)
        if not same_request(pack(self.book.request(known.request_id).to_dict()), demand.packed):
            detail = {"key": request.key, "account": known.account}
            raise RefusedError(Reason.KEY_REUSED, f"key {request.key!r} belongs to another request", detail)
        return known

    def _admit(self, request: LeaseRequest) -> Entry:
        price = self._config.usd_per_gpu_hour
        demand = check_request(request, price, self._config.most_memory)
        waiting, limit = self.book.count_queued(holder_of(request.account)), self._config.queue_limit
        if waiting >= limit:
            detail = {"waiting": waiting, "limit": limit}
            exceeded = LimitExceeded("requests", request.account, limit, waiting + 1, "scheduler")
            text = f"{waiting} requests of {request.account} wait already"
            raise RefusedError(Reason.QUEUE_FULL, text, detail, exceeded)
        with self.store.transaction():
            entry = self.book.add(request, demand, price)
            note = f"{request.kind} {request.label}"
            self.ledger.reserve(entry.reservation, request.account, demand.worst, note)
            payload = {**_facts(entry), "seconds": demand.duration_ms / 1000, "reserved": demand.worst.to_dict()}
            payload["request_sha256"] = sha256_hex(demand.packed)
            self.journal.append("lease_requested", payload)
        return entry

    async def wait(self, request_id: str, timeout_s: float | None = None) -> LeaseResult | None:
        """The result of a request, or `None` when it has not ended in time. Raises `RefusedError` "unknown_request"."""
        entry = self.book.find(request_id)
        if entry is None:
            raise RefusedError(Reason.UNKNOWN_REQUEST, f"no request {request_id!r}", {"request_id": request_id})
        if entry.live:
            event = self._ended.setdefault(request_id, asyncio.Event())
            try:
                await asyncio.wait_for(event.wait(), timeout_s)
            except TimeoutError:
                return None
        return self.book.result(request_id)

    async def run(self, request: LeaseRequest) -> LeaseResult:
        """Submit and wait for the end."""
        result = await self.wait(await self.submit(request))
        assert result is not None
        return result

    async def cancel(self, key: str) -> State:
        """Cancel the request with this key; its state.

        A waiting one ends now and costs nothing; a running one is asked to end and costs what it used; an ended one
        stays as it is. Raises `RefusedError` "unknown_request".
        """
        entry = self.book.by_key(key)
        if entry is None:
            raise RefusedError(Reason.UNKNOWN_REQUEST, f"no request with key {key!r}", {"key": key})
        if entry.state == "queued":
            entry = self._end(entry, unused_result(entry, "cancelled", None), free=True)
            self.grant_leases()
        elif entry.state == "running":
            if not entry.cancel_asked:
                self.book.ask_cancel(entry.request_id)
            self._spawn(self._cancel_on_slot(entry))
        return entry.state

    # -- slots -----------------------------------------------------------------------------------------------------

    async def register_slot(self, info: SlotInfo, actor_name: str) -> None:
        """Take a slot into service; the same again, or after its restart, renews it."""
        with self.store.transaction():
            if self.book.put_slot(info, actor_name):
                self.journal.append("slot_registered", {"slot": info.name, "node": info.node, "gpu": info.gpu_name})
        self._slots.wake(info.name)
        self.grant_leases()

    async def retire_slot(self, name: str, gone: bool = False) -> None:
        """Give a slot no more leases; what runs there ends as usual, or, when the slot is `gone`, goes back to the
        queue at once. `register_slot` takes it back.
        """
        with self.store.transaction():
            if self.book.retire_slot(name):
                self.journal.append("slot_retired", {"slot": name})
            for entry in self.book.running() if gone else ():
                if entry.slot == name:
                    self._lost(entry, "its slot does not exist any more", self.book.slots()[name].info, excused=True)
        self.grant_leases()

    def grant_leases(self) -> None:
        """Let the policy decide, write its grants down in one transaction, then dispatch them."""
        queued = self.book.queued() if self._started and not self._closed and not self._paused else []
        slots = {n: s for n, s in self.book.slots().items() if not s.retired and not self._slots.resting(n)}
        if not queued or not slots:
            return
        held = self.book.held()
        states = [SlotState(name, tuple(held.get(name, ()))) for name in slots]
        now, usage = self.book.now_us(), self.book.usage()
        grants = choose([e.waiting() for e in queued], states, usage, now, self._config.policy)
        entries: list[Entry] = []
        with self.store.transaction():
            for grant in grants:
                thousandths = self.book.get(grant.request_id).thousandths
                threads = max(1, slots[grant.slot].info.threads * thousandths // WHOLE)
                entry = self.book.grant(grant.request_id, grant.slot, threads, grant.oldest)
                facts = {"slot": grant.slot, "threads": threads, "attempt": entry.attempt}
                self.journal.append("lease_granted", {**_facts(entry), "lease_id": entry.lease_id, **facts})
                entries.append(entry)
        for entry in entries:
            self._dispatch(entry)

    def _keep_ticking(self) -> None:
        if not self._closed:
            self._spawn(self._tick(), retry=self._keep_ticking)

    async def _tick(self) -> None:
        """Look again now and then: requests grow overdue and slots end their rest without an event."""
        while True:
            await asyncio.sleep(self._config.tick_s)
            self.grant_leases()

    # -- leases ----------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], retry: Callable[[], None] | None = None) -> None:
        """A background task; one that fails is logged, and done again with `retry` after a rest."""

        def finished(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if self._closed or task.cancelled() or task.exception() is None:
                return
            log.error("scheduler: a task failed", exc_info=task.exception())
            if retry is not None:
                asyncio.get_running_loop().call_later(self._config.rest_s, retry)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(finished)

    def _dispatch(self, entry: Entry) -> None:
        if self._closed:
            return
        self._spawn(self._carry(entry), retry=lambda: self._dispatch(entry))
        if entry.cancel_asked:
            self._spawn(self._cancel_on_slot(entry))

    async def _carry(self, entry: Entry) -> None:
        """Hand the lease to its slot and write down how it ended."""
        slot = self.book.slots()[entry.slot or ""]
        request = self.book.request(entry.request_id)
        directory = str(self._leases_dir / entry.lease_id)
        lease = Lease(entry.lease_id, request, slot.info.name, entry.threads or 1, directory)
        answer = await self._slots.ask(slot.actor, lease, entry.duration_ms / 1000 + self._config.grace_s)
        result = answer.result
        now = self.book.get(entry.request_id)
        if now.state == "running" and now.lease_id == entry.lease_id:
            if result is None or result.status == "lost":
                self._lost(now, answer.fault, slot.info, answer.excused)
            else:
                self._end(now, result)
            self.grant_leases()

    async def _cancel_on_slot(self, entry: Entry) -> None:
        await self._slots.cancel(self.book.slots()[entry.slot or ""].actor, entry.lease_id)

    def _lost(self, entry: Entry, fault: str, slot: SlotInfo, excused: bool = False) -> None:
        forgiven = self.book.excused(entry.request_id)
        over = entry.attempt - forgiven >= self._config.attempts
        if excused:
            over = forgiven >= MOST_EXCUSED
        if entry.cancel_asked or over:
            self._end(entry, unused_result(entry, "cancelled" if entry.cancel_asked else "lost", slot), free=True)
            return
        self._requeue(entry, fault, excused)

    def _requeue(self, entry: Entry, fault: str, excused: bool) -> None:
        with self.store.transaction():
            self.book.requeue(entry.request_id, excused)
            facts = {"slot": entry.slot, "attempt": entry.attempt, "fault": fault}
            self.journal.append("lease_lost", {**_facts(entry), "lease_id": entry.lease_id, **facts})

    def _end(self, entry: Entry, result: LeaseResult, free: bool = False) -> Entry:
        """Settle (or release, when `free`), close the entry and journal, in one transaction; then wake who waits."""
        with self.store.transaction():
            charged = Amounts()
            if free:
                self.ledger.release(entry.reservation, result.status)
            else:
                actual = cost_of(max(0, result.gpu_ms), entry.usd_per_gpu_hour)
                charged = self.ledger.settle(entry.reservation, actual, result.status)
            ended = self.book.finish(
                entry.request_id, replace(result, gpu_ms=charged.gpu_ms), charged.gpu_ms, charged.usd
            )
            facts = {
                "lease_id": entry.lease_id, "attempt": entry.attempt, "slot": entry.slot, "status": result.status,
                "gpu_ms": charged.gpu_ms, "usd": charged.usd, "started_us": result.started_us,
                "ended_us": result.ended_us, "sandbox_grade": result.sandbox_grade,
                "result_sha256": self.book.result_sha256(entry.request_id),
            }  # fmt: skip
            self.journal.append("lease_ended", {**_facts(entry), **facts})
        event = self._ended.pop(entry.request_id, None)
        if event is not None:
            event.set()
        return ended

    # -- accounts --------------------------------------------------------------------------------------------------

    async def open_account(self, key: str, account: str, parent: str | None, caps: Caps) -> Balance:
        """Open an account; its balance. The key again gives the balance of the account that it opened."""
        with self.store.transaction():
            asked = {"account": account, "parent": parent, "caps": caps.to_dict()}
            opened = self.store.once(f"open/{key}", lambda _: self._open(account, parent, caps), asked=asked)
            if opened != account:  # of a store that did not keep what was asked
                raise RefusedError(Reason.KEY_REUSED, f"key {key!r} opened account {opened}", {"account": opened})
        return self.ledger.balance(account)

    def _open(self, account: str, parent: str | None, caps: Caps) -> str:
        self.ledger.open(account, parent, caps)
        return account

    async def balance(self, account: str) -> Balance:
        """As `Ledger.balance`."""
        return self.ledger.balance(account)

    async def spend(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """Charge at once; what was charged. The key again gives the first charge. Raises as `Ledger.spend`."""
        return self.ledger.spend(f"spend/{key}", account, amounts, note)

    async def charge(self, key: str, account: str, amounts: Amounts, note: str = "") -> Amounts:
        """Charge at once what is left of `amounts`; what was charged. As `Ledger.spend_up_to`."""
        return self.ledger.spend_up_to(f"spend/{key}", account, amounts, note)

    async def reserve(self, key: str, account: str, amounts: Amounts, note: str = "", holder: str = "") -> None:
        """As `Ledger.reserve`, for what is no lease (tokens of a model call)."""
        self.ledger.reserve(f"hold/{key}", account, amounts, note, holder)

    async def settle(self, key: str, actual: Amounts, note: str = "") -> Amounts:
        """As `Ledger.settle`; what was charged."""
        return self.ledger.settle(f"hold/{key}", actual, note)

    async def release(self, key: str, note: str = "") -> Amounts:
        """As `Ledger.release`; what was held."""
        return self.ledger.release(f"hold/{key}", note)

    async def release_holder(self, holder: str) -> list[str]:
        """As `Ledger.release_holder`."""
        return self.ledger.release_holder(holder)

    async def status(self) -> dict[str, Any]:
        """All that a live page needs; see `actors.scheduler.report`."""
        shown = describe(self.book, self.ledger, self._slots.resting, self.book.now_us())
        return {**shown, "paused": self._paused}


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "request_id": entry.request_id,
        "key": entry.key,
        "account": entry.account,
        "kind": entry.kind,
        "label": entry.label,
        "gpus": entry.thousandths / WHOLE,
    }
