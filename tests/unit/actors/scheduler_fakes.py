"""What the scheduler's tests share: a place for databases, crash images, requests, a fake slot."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.scheduler.scheduler import Scheduler, SchedulerConfig
from cluster.clock import now_us
from cluster.money import Caps, gpu_ms
from cluster.remote import Local
from cluster.store import Store
from gpu_pool.client import SlotClient
from gpu_pool.leases import Job, Lease, LeaseRequest, LeaseResult, LeaseStatus, SlotInfo, Step

PRICE = 2_000_000
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
CONFIG = SchedulerConfig(PRICE, grace_s=60.0, rest_s=0.01, tick_s=0.02)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, where fsync costs nothing."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


def image(source: Path, into: Path) -> Path:
    """What a `kill -9` at this moment would leave of the database at `source`, as a database in `into`."""
    into.mkdir(parents=True, exist_ok=True)
    for name in (source.name, source.name + "-wal"):
        if (source.parent / name).exists():
            shutil.copyfile(source.parent / name, into / name)
    return into / source.name


class Camera:
    """Takes an image of a store before each SQL statement, each distinct one once."""

    def __init__(self, store: Store, into: Path) -> None:
        self.images: list[Path] = []
        self._store, self._into, self._seen = store, into, set[str]()
        self._db: Any = store._db

    def __enter__(self) -> Camera:
        self._db.set_trace_callback(lambda _: self.shoot())
        return self

    def __exit__(self, *error: object) -> None:
        self._db.set_trace_callback(None)
        self.shoot()

    def shoot(self) -> None:
        names = (self._store.path, self._store.path.with_name(self._store.path.name + "-wal"))
        digest = hashlib.sha256(b"|".join(p.read_bytes() for p in names if p.exists())).hexdigest()
        if digest not in self._seen:
            self._seen.add(digest)
            self.images.append(image(self._store.path, self._into / f"{len(self.images):04d}"))


def a_request(key: str, account: str = "campaign/researcher/01-a", **fields: Any) -> LeaseRequest:
    job = Job((Step("train", "method", {}, {"seed": 1}, {"student.safetensors": 1 << 20}, 1.0),))
    values: dict[str, Any] = {"kind": "pilot", "gpus": 0.5, "seconds": 1.0, "job": job, "label": f"run {key}"}
    return LeaseRequest(key, account, **{**values, **fields})


def a_result(lease: Lease, status: LeaseStatus = "done", used_ms: int = 100) -> LeaseResult:
    at = now_us()
    used = gpu_ms(lease.request.gpus, used_ms)
    return LeaseResult(lease.id, status, (), used, at - used_ms * 1000, at, lease.slot, "node", "cpu", "A", "probe")


Behaviour = Callable[["FakeSlot", Lease], "LeaseResult | BaseException | None"]


class FakeSlot:
    """Runs leases by waiting; idempotent by lease id, as a slot is; outlives the scheduler."""

    def __init__(self, seconds: float = 0.005, behave: Behaviour | None = None) -> None:
        self.seconds = seconds
        self.behave = behave or (lambda _, lease: a_result(lease))
        self.started: list[str] = []
        self.leases: dict[str, Lease] = {}
        self.now = 0
        self.most = 0
        self._done: dict[str, LeaseResult] = {}
        self._cancel: dict[str, asyncio.Event] = {}

    async def run(self, lease: Lease) -> LeaseResult:
        self.leases[lease.id] = lease
        if lease.id not in self._done:
            await self._carry_out(lease)
        return self._done[lease.id]

    async def _carry_out(self, lease: Lease) -> None:
        self.started.append(lease.id)
        share = round(lease.request.gpus * 1000)
        self.now += share
        self.most = max(self.most, self.now)
        try:
            answer = self.behave(self, lease)
            if answer is None:
                answer = await self._until_cancelled(lease)
            else:
                await asyncio.sleep(self.seconds)
        finally:
            self.now -= share
        if isinstance(answer, BaseException):
            raise answer
        self._done[lease.id] = answer

    async def _until_cancelled(self, lease: Lease) -> LeaseResult:
        event = self._cancel.setdefault(lease.id, asyncio.Event())
        await event.wait()
        return a_result(lease, "cancelled", 40)

    async def cancel(self, lease_id: str) -> None:
        self._cancel.setdefault(lease_id, asyncio.Event()).set()

    def done(self) -> set[str]:
        return set(self._done)


def a_slot_info(name: str, threads: int = 4) -> SlotInfo:
    return SlotInfo(name, "node", "cpu", threads, "A", "probe")


class Office:
    """A scheduler on a database in `directory`, with fake slots by actor name."""

    def __init__(self, database: Path, slots: dict[str, FakeSlot], config: SchedulerConfig = CONFIG) -> None:
        self.slots = slots
        self.store = Store(database)
        self.plain = Scheduler(
            self.store, lambda name: SlotClient(Local(slots[name])), config, database.parent / "leases"
        )

    async def __aenter__(self) -> Scheduler:
        await self.plain.start()
        return self.plain

    async def __aexit__(self, *error: object) -> None:
        await self.plain.close()
        self.store.close()


async def furnish(scheduler: Scheduler, slots: dict[str, FakeSlot], usd: int = 100_000_000, **caps: int) -> None:
    """The accounts of a small campaign (researchers 01-a and 02-b, baselines) and the slots."""
    await scheduler.open_account("k0", "campaign", None, Caps(usd=usd))
    for n, name in enumerate(("campaign/researcher/01-a", "campaign/researcher/02-b", "campaign/baselines")):
        await scheduler.open_account(f"k{n + 1}", name, "campaign", Caps(**caps))
    for name in slots:
        await scheduler.register_slot(a_slot_info(name), name)


def spent(scheduler: Scheduler, account: str = "campaign") -> tuple[int, int, int, int]:
    """Dollars spent and reserved, GPU-milliseconds spent and reserved."""
    balance = scheduler.ledger.balance(account)
    used, held = balance.spent, balance.reserved
    return used.usd, held.usd, used.gpu_ms, held.gpu_ms
