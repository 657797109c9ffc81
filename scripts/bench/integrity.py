"""What integrity costs: a counted run against the same training in one process, and the training runs of an audit.

    python scripts/bench/integrity.py                  # with pretrained models in the cache
    python scripts/bench/integrity.py --reuse never --repeats 5

Counted: a method goes through the evaluator as it does in a campaign, on DEV: checked, booked, trained and applied in
two warm sandboxes for each of three seeds, read back, scored, recorded, signed and journaled. Plain: the library's own
training and prediction, called in this process on the same files, and nothing else. Both are timed in one run, in turn,
each time with other code so that nothing is remembered. The ratio is that of the medians; the aim is at most 1.15.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import torch

from actors.evaluator.audits import TRIALS
from actors.evaluator.evaluator import Evaluator
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig, load_config
from cluster.journal import Journal
from cluster.names import RunPaths
from cluster.objects import ObjectStore
from cluster.remote import Local
from cluster.store import Store
from cluster.terminal import run_script
from cluster.trees import remove_tree
from gpu_pool.cache import NodeCache
from gpu_pool.leases import Lease, LeaseRequest, LeaseResult, Step
from gpu_pool.library import materialise
from gpu_pool.slot import Slot, SlotSpec
from gpu_pool.weak_to_strong import entrypoints
from gpu_pool.weak_to_strong.domains import get_domain
from gpu_pool.weak_to_strong.methods import path_of
from scripts.bench.free_ledger import FreeLedger

AIM = 1.15
MOST_TRAININGS = 8
TIMED = "timed"


class OneSlot(FreeLedger):
    """A scheduler of one slot that grants everything at once; of timed methods it also runs the plain way."""

    def __init__(self, slot: Slot, leases: Path) -> None:
        self._slot, self._leases = slot, leases
        self._count = 0
        self.plain_first = False
        self.plain_s = 0.0

    async def run(self, request: LeaseRequest) -> LeaseResult:
        """Carry a lease out."""
        self._count += 1
        timed = f"/{TIMED}" in request.key
        if timed and self.plain_first:
            self.plain_s += plain(request.job.steps)
        lease = Lease(f"lease-{self._count}", request, "slot-0", 1, str(self._leases / f"lease-{self._count}"))
        result = await self._slot.run(lease)
        if timed and not self.plain_first:
            self.plain_s += plain(request.job.steps)
        return result


def plain(steps: tuple[Step, ...]) -> float:
    """Seconds that the steps take in this process, on the same input files."""
    made: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        for step in steps:
            inside, out = Path(folder) / step.name / "in", Path(folder) / step.name / "out"
            inside.mkdir(parents=True)
            out.mkdir()
            for name, source in step.inputs.items():
                (inside / name).symlink_to(made[source[1:]] if source.startswith("@") else source)
            entrypoints.ENTRIES[step.entry](inside, out, dict(step.params), lambda event, **values: None)
            made |= {f"{step.name}/{name}": out / name for name in step.outputs}
        return time.monotonic() - started


def make_slot(config: CampaignConfig, reuse: Literal["wiped", "never"]) -> Slot:
    """A slot with real sandboxes; it is not graded, because nothing that is measured here is a claim."""
    cache = NodeCache.of(config.pool)
    spec = SlotSpec(
        name="slot-0",
        threads=1,
        memory_bytes=config.pool.memory_bytes,
        reuse=reuse,
        library=materialise(cache.root),
        cache_models=cache.models,
        index=40,
        gpus=(),
        gpu_name="logical",
        grade="C",
        probe_hash="",
    )
    return Slot(spec)


async def measure(root: Path, reuse: Literal["wiped", "never"], repeats: int, task: str) -> list[tuple[float, float]]:
    """Seconds of (counted, plain) runs of `vanilla` on three seeds."""
    config = load_config("quickstart", overrides=(f"task.domains=[{task}]", "scoring.reply_seconds=0"))
    paths = RunPaths(root / "bench")
    store, slot = Store(paths.evaluator_db), make_slot(config, reuse)
    scheduler = OneSlot(slot, paths.leases)
    await slot.warm()
    domain = get_domain(task, config.task.size, config.task.world_seed)
    judge = Evaluator(paths, config, SchedulerClient(Local(scheduler)), store, Journal(store), lambda name: domain)
    try:
        source = path_of("vanilla").read_text()
        objects, found = ObjectStore(paths.objects), list[tuple[float, float]]()
        await judge.score("warm", objects.put_tree({"method.py": source.encode()}), "vanilla", "dev", task)
        for number in range(repeats):
            snapshot = objects.put_tree({"method.py": f"{source}\n\nREPEAT = {number}\n".encode()})
            scheduler.plain_first, scheduler.plain_s = bool(number % 2), 0.0
            started = time.monotonic()
            await judge.score(f"{number}", snapshot, f"{TIMED}-{number}", "dev", task)
            whole = time.monotonic() - started
            found.append((whole - scheduler.plain_s, scheduler.plain_s))
            counted, alone = found[-1]
            print(f"  counted {counted:6.2f} s, plain {alone:6.2f} s, ratio {counted / alone:.3f}", flush=True)
        return found
    finally:
        await slot.close()
        store.close()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="math", choices=("chat", "math", "code"))
    parser.add_argument("--reuse", default="wiped", choices=("wiped", "never"), help="pool.sandbox_reuse")
    parser.add_argument("--repeats", type=int, default=6)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="aar-bench-"))
    root.chmod(0o755)  # sandboxes read what is handed to them as another user
    try:
        found = asyncio.run(measure(root, args.reuse, args.repeats, args.task))
    finally:
        remove_tree(root)
    counted, alone = (statistics.median(column) for column in zip(*found, strict=True))
    print(f"counted {counted:.2f} s, plain {alone:.2f} s: {counted / alone:.3f} times (aim: {AIM:.2f})")
    print(f"an audit trains {len(TRIALS)} students (aim: {MOST_TRAININGS}) and asks them on other items")
    return 0 if counted / alone <= AIM and len(TRIALS) <= MOST_TRAININGS else 1


if __name__ == "__main__":
    sys.exit(run_script(main))
