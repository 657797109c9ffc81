"""What a campaign costs in time and memory on this machine.

    python scripts/bench/campaign.py [--preset quickstart] [--cold]

Runs the campaign as a user would and prints: wall seconds in all and per phase; peak memory (proportional set size of
all its processes); the median time from the grant of a lease of foreign code on a warm slot to the first line of that
code; and where the wall time went. A moment belongs to work when a lease runs; the rest is start-up (Ray, imports,
sandboxes becoming warm), gaps between leases, and the end (report, verification, shutdown). Inside leases, what belongs
to no step counts by slot. Orchestration is gaps, end and the inside of leases over the whole wall time.
`--cold` uses a new, empty node cache of pretrained models.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import psutil

from cluster.clock import now_us
from cluster.journal import read_events
from cluster.names import RunPaths
from cluster.store import open_readonly
from cluster.terminal import run_script
from cluster.wire import unpack
from gpu_pool.leases import LeaseResult

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_S = 2.0
RAY_MARKS = ("ray::", "raylet", "gcs_server", "/ray/", "bwrap")


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process, bytes; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def family(root: psutil.Process, known: set[int]) -> set[int]:
    """The processes of the campaign: descendants, and Ray's own, which leave the driver's tree."""
    pids = {root.pid, *(child.pid for child in root.children(recursive=True))}
    for process in psutil.process_iter(["pid", "cmdline"]):
        text = " ".join(process.info["cmdline"] or [])
        if process.info["pid"] not in known and any(mark in text for mark in RAY_MARKS):
            pids.add(process.info["pid"])
    return pids


class MemorySampler(threading.Thread):
    """Highest total memory of a process family."""

    def __init__(self, root: psutil.Process, known: set[int]) -> None:
        super().__init__(daemon=True)
        self.root, self.known, self.peak = root, known, 0

    def run(self) -> None:
        """Sample until the root process is gone."""
        while self.root.is_running():
            try:
                total = sum(pss_bytes(pid) for pid in family(self.root, self.known))
            except psutil.NoSuchProcess:
                return
            self.peak = max(self.peak, total)
            time.sleep(SAMPLE_S)


def lease_results(run: Path) -> list[LeaseResult]:
    """Every lease's result, as its slot wrote it."""
    paths = sorted(RunPaths(run).leases.glob("*/result.msgpack"))
    return [LeaseResult.from_dict(unpack(path.read_bytes(), 16 << 20)) for path in paths]


def covered_seconds(leases: list[LeaseResult]) -> float:
    """Wall seconds in which at least one lease ran."""
    total, reached = 0, 0
    for start, end in sorted((lease.started_us, lease.ended_us) for lease in leases):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


def first_lines_ms(run: Path, leases: list[LeaseResult]) -> list[float]:
    """For each lease of a researcher's method: from its grant to the first line of the method's code."""
    db = open_readonly(RunPaths(run).scheduler_db)
    granted = {
        e.payload["lease_id"]: (e.at_us, e.payload["kind"]) for e in read_events(db) if e.kind == "lease_granted"
    }
    db.close()
    found = []
    for lease in leases:
        at_us, kind = granted[lease.lease_id]
        first = lease.steps[0].first_line_ms if lease.steps else None
        if kind in ("pilot", "full") and first is not None:
            found.append((lease.started_us - at_us) / 1e3 + first)
    return found


def phases(run: Path) -> dict[str, float]:
    """Seconds of each phase."""
    db = open_readonly(RunPaths(run).director_db)
    marks = [(event.payload["phase"], event.at_us) for event in read_events(db) if event.kind == "phase"]
    db.close()
    return {a[0]: (b[1] - a[1]) / 1e6 for a, b in itertools.pairwise(marks)}


def report(run: Path, wall: float, began_us: int, peak: int) -> dict[str, object]:
    """All figures of one finished campaign; `began_us` is when its command was started."""
    leases = [lease for lease in lease_results(run) if lease.steps]
    steps = [step for lease in leases for step in lease.steps]
    slots = len({lease.slot for lease in leases})
    first = first_lines_ms(run, leases)
    start = min(lease.started_us for lease in leases)
    end = max(lease.ended_us for lease in leases)
    covered = covered_seconds(leases)
    gaps, tail = (end - start) / 1e6 - covered, began_us / 1e6 + wall - end / 1e6
    held = sum((lease.ended_us - lease.started_us) / 1e6 for lease in leases)
    inside = (held - sum(step.seconds for step in steps)) / slots
    return {
        "wall_seconds": round(wall, 1),
        "phase_seconds": {name: round(seconds, 1) for name, seconds in phases(run).items()},
        "peak_memory_gib": round(peak / (1 << 30), 2),
        "leases": len(leases),
        "steps": len(steps),
        "first_line_ms_median": round(statistics.median(first), 1),
        "first_line_ms_worst": round(max(first), 1),
        "startup_seconds": round(start / 1e6 - began_us / 1e6, 1),
        "gap_seconds": round(gaps, 1),
        "end_seconds": round(tail, 1),
        "lease_seconds_outside_steps_per_slot": round(inside, 1),
        "orchestration_share": round((gaps + tail + inside) / wall, 4),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--cold", action="store_true", help="with an empty node cache")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        command = [sys.executable, str(ROOT / "scripts" / "run_campaign.py"), "--preset", args.preset]
        command += ["--runs-dir", scratch, "--name", "bench"]
        if args.cold:
            command += ["--set", f"pool.cache_dir={scratch}/cache"]
        known = set(psutil.pids())
        began, began_us = time.monotonic(), now_us()
        child = subprocess.Popen(command, cwd=ROOT)
        sampler = MemorySampler(psutil.Process(child.pid), known)
        sampler.start()
        code = child.wait()
        wall = time.monotonic() - began
        if code != 0:
            return code
        print(json.dumps(report(Path(scratch) / "bench", wall, began_us, sampler.peak), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
