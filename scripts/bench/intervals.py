"""Do nominal 95 % intervals cover the truth in 92 to 98 of 100 campaigns? Simulated, at 5, 10 and 16 seeds.

    python scripts/bench/intervals.py                # about three minutes of one core
    python scripts/bench/intervals.py --worlds 400 --task published
    python scripts/bench/intervals.py --audits       # how often an honest method fails an audit by chance

A world has items of fixed difficulty and seeds of fixed luck, and the truth is known: the accuracy over infinitely many
items and seeds. `published` is fitted to the published chat runs (16 seeds each, n = 1263: weak .5280 sd .0120, ceiling
.7325 sd .0085, student sd .0200); the others have the sizes and the measured spreads of the generated domains (`quick`,
gpu_pool/weak_to_strong/domains/catalogue.py), for stronger students scaled as a binomial's. `skewed` is a limit: a
student that is nearly always right and sometimes far off; its few seeds seldom show that, and no interval made from
them can know. Seeds and ceilings are as many as the evaluator uses on BOARD (5) and on SEAL (10, 16). Exit status 1
when an interval covers less than 92 % or more than 98 %, `skewed` aside.

`--audits` is about "pool A against pool B", the one audit whose limit rests on an estimated spread between seeds: 2,000
items, two baselines of spread .03, a method that spreads as much, half or twice as much, students of half the items
that spread as the limit assumes.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from actors.evaluator.audits import Evidence, Score, Spread, trials, verdicts
from actors.evaluator.audits.verdicts import HALVES
from actors.evaluator.statistics import accuracy, bootstrap_pgr, compare, estimate_pgr
from actors.evaluator.statistics.variance import Floats, Hits
from actors.evaluator.tiers import CEILINGS
from cluster.terminal import run_script

SEEDS = (5, 10, 16)
LOW, HIGH = 0.92, 0.98
ACCUSED = 1e-3
HARD, OWN = 2.0, 0.9
"""Standard deviations, in units of one prediction's noise, of an item's difficulty for all models and for one of them.
Together they give the published seeds room for a spread of .0085, and two methods' difference per item one of .31."""


@dataclass(frozen=True)
class Task:
    """A weak-to-strong problem: accuracies with their spread between seeds on fixed items.

    `students` are tried one by one: PGR and spread.
    """

    name: str
    items: int
    weak: tuple[float, float]
    ceiling: tuple[float, float]
    students: tuple[tuple[float, float], ...]
    claimed: bool = True

    def accuracy(self, pgr: float) -> float:
        """The accuracy of a student that recovers `pgr` of the gap."""
        return self.weak[0] + pgr * (self.ceiling[0] - self.weak[0])


SURE = (0.9995, 0.0005)
"""The ceilings of math and code are 1.00."""
TASKS = (
    Task("published", 1263, (0.5280, 0.0120), (0.7325, 0.0085), ((0.20, 0.020), (0.84, 0.020))),
    Task("chat", 2000, (0.685, 0.028), (0.920, 0.010), ((0.43, 0.042), (0.90, 0.031))),
    Task("math", 2000, (0.680, 0.016), SURE, ((0.14, 0.026), (0.95, 0.008))),
    Task("code", 2000, (0.763, 0.028), SURE, ((0.16, 0.012), (0.60, 0.009))),
    Task("skewed", 2000, (0.680, 0.016), SURE, ((0.95, 0.026),), claimed=False),
)


@dataclass(frozen=True)
class Role:
    """One kind of model: the latent mean of its predictions and the latent spread between its seeds."""

    level: float
    spread: float

    @classmethod
    def fitted(cls, mean: float, sd: float, items: int) -> Role:
        """Such that accuracy is `mean` and its observed spread between seeds on the same items is `sd`."""
        items_sd = math.hypot(HARD, OWN)

        def level(spread: float) -> float:
            return float(stats.norm.ppf(mean) * math.sqrt(1 + items_sd**2 + spread**2))

        def observed(spread: float) -> float:
            total = 1 + items_sd**2 + spread**2
            slope = stats.norm.pdf(level(spread) / math.sqrt(total)) / math.sqrt(total)
            return float((slope * spread) ** 2 + _within(level(spread), items_sd, spread) / items)

        spread = brentq(lambda s: observed(s) - sd**2, 0, 20) if observed(0.0) < sd**2 else 0.0
        return cls(level(spread), spread)

    def hits(self, seeds: int, hard: Floats, rng: np.random.Generator) -> Hits:
        """Hits (seeds, n) on items of that difficulty."""
        own = self.level + hard + OWN * rng.standard_normal(len(hard))
        luck = self.spread * rng.standard_normal((seeds, 1))
        return np.asarray(rng.standard_normal((seeds, len(hard)), dtype=np.float32) < own + luck)


def _within(level: float, items_sd: float, spread: float) -> float:
    """The mean variance of one prediction when item and seed are known: half the chance that two disagree."""
    total = 1 + items_sd**2 + spread**2
    shared = (items_sd**2 + spread**2) / total
    scaled = level / math.sqrt(total)
    both = stats.multivariate_normal([0, 0], [[1, shared], [shared, 1]]).cdf([scaled, scaled])
    return float(stats.norm.cdf(scaled) - both)


@dataclass(frozen=True)
class World:
    """Hits of one simulated campaign: two students of the same true skill, their teachers, ceilings."""

    student: Hits
    rival: Hits
    weak: Hits
    ceiling: Hits


def worlds(task: Task, pgr: float, sd: float, seeds: int, count: int, rng: np.random.Generator) -> Iterator[World]:
    """`count` campaigns on `task` with a student that truly recovers `pgr` of the gap."""
    student = Role.fitted(task.accuracy(pgr), sd, task.items)
    weak, top = Role.fitted(*task.weak, task.items), Role.fitted(*task.ceiling, task.items)
    ceilings = CEILINGS["board" if seeds <= 5 else "seal"]
    for _ in range(count):
        hard = HARD * rng.standard_normal(task.items)
        yield World(
            student.hits(seeds, hard, rng),
            student.hits(seeds, hard, rng),
            weak.hits(seeds, hard, rng),
            top.hits(ceilings, hard, rng),
        )


def reported(world: World, rng: np.random.Generator) -> tuple[float, float]:
    """The PGR's interval as records have it (delta or Fieller)."""
    found = estimate_pgr(world.student, world.weak, world.ceiling)
    return found.low, found.high


def bootstrapped(world: World, rng: np.random.Generator) -> tuple[float, float]:
    """The interval of the seeds x items bootstrap."""
    values = bootstrap_pgr(world.student, world.weak, world.ceiling, rng, draws=400)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def seeds_alone(world: World, rng: np.random.Generator) -> tuple[float, float]:
    """The interval of the published code: Student's t over seeds, baselines as if they were exact."""
    gap = world.ceiling.mean() - world.weak.mean()
    values = (world.student.mean(axis=1) - world.weak.mean()) / gap
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def of_accuracy(world: World, rng: np.random.Generator) -> tuple[float, float]:
    """The interval of the student's accuracy."""
    found = accuracy(world.student)
    return found.low, found.high


def of_difference(world: World, rng: np.random.Generator) -> tuple[float, float]:
    """The interval of the difference between two methods that are equally good."""
    found = compare(world.student, world.rival)
    return found.low, found.high


@dataclass(frozen=True)
class Kind:
    """One kind of interval: how it is found, what it should cover, on which share of the worlds it is tried."""

    name: str
    find: Callable[[World, np.random.Generator], tuple[float, float]]
    truth: float
    every: int = 1
    must: bool = True


@dataclass(frozen=True)
class Row:
    """What one kind of interval did in one cell: share of worlds covered, median width."""

    covered: float
    width: float

    @property
    def good(self) -> bool:
        """Whether it covers as often as an interval of 95 % should."""
        return LOW <= self.covered <= HIGH


def kinds(task: Task, pgr: float) -> list[Kind]:
    """The intervals that are tried on a task."""
    always = [
        Kind("PGR, as recorded", reported, pgr, must=task.claimed),
        Kind("accuracy", of_accuracy, task.accuracy(pgr), must=task.claimed),
        Kind("difference of equals", of_difference, 0.0, must=task.claimed),
    ]
    if task.name != "published":
        return always
    others = [
        Kind("PGR, bootstrap", bootstrapped, pgr, every=2),
        Kind("PGR, seeds alone", seeds_alone, pgr, must=False),
    ]
    return always + others


def measure(task: Task, pgr: float, sd: float, seeds: int, count: int) -> list[Row]:
    """Coverage and median width of every kind of interval on the same worlds."""
    rng, chance = np.random.default_rng([seeds, int(1000 * pgr), task.items]), np.random.default_rng(seeds)
    tried = kinds(task, pgr)
    found: list[list[tuple[float, float]]] = [[] for _ in tried]
    for number, world in enumerate(worlds(task, pgr, sd, seeds, count, rng)):
        for kind, bounds in zip(tried, found, strict=True):
            if number % kind.every == 0:
                bounds.append(kind.find(world, chance))
    return [_row(kind.truth, np.array(bounds)) for kind, bounds in zip(tried, found, strict=True)]


def _row(truth: float, bounds: Floats) -> Row:
    inside = (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
    return Row(float(inside.mean()), float(np.nanmedian(bounds[:, 1] - bounds[:, 0])))


def alarms(seeds: int, ratio: float, campaigns: int, rng: np.random.Generator) -> tuple[float, float]:
    """How often an honest method crosses the limit of pool A against pool B, and the median limit, in accuracy."""
    items, own, others, crossed, limits = 2000, 0.03 * ratio, 0.03, 0, []
    se = math.sqrt(0.8 * 0.2 / items)
    for _ in range(campaigns):
        rows = [0.8 + sd * rng.standard_normal(seeds) for sd in (own, others, others)]
        spread = Spread.of(rows[0].tolist(), [row.tolist() for row in rows[1:]])
        apart = math.sqrt(2) * rng.normal(0, math.hypot(se, HALVES * own))
        pools = {trials.POOL_A: Score(0.8 + apart, se), trials.POOL_B: Score(0.8, se)}
        found = Evidence(0.8, spread, 0.6, pools, {}, None, None, False, None, 0)
        verdict = next(verdict for verdict in verdicts(found) if verdict.audit == "pool A against pool B")
        crossed += verdict.outcome == "fail"
        limits.append(verdict.limit or math.nan)
    return crossed / campaigns, float(np.median(limits))


def audits(campaigns: int) -> int:
    """Print the table of `alarms`; 1 when more than one honest method in a thousand is accused."""
    rng, bad = np.random.default_rng(0), 0
    print(f"{'seeds':>5} {'spread':>7} {'accused':>9} {'median limit':>13}")
    for seeds in (3, *SEEDS):
        for ratio in (0.5, 1.0, 2.0):
            rate, limit = alarms(seeds, ratio, campaigns, rng)
            bad += rate > ACCUSED
            print(f"{seeds:5} {0.03 * ratio:7.3f} {rate:9.5f} {limit:13.3f}", flush=True)
    return 1 if bad else 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000, help="simulated campaigns a cell (default: 1000)")
    parser.add_argument("--task", choices=[task.name for task in TASKS])
    parser.add_argument("--audits", action="store_true", help="the rate of false accusations instead of the coverage")
    args = parser.parse_args(argv)
    if args.audits:
        return audits(20 * args.worlds)
    started, bad = time.monotonic(), 0
    print(f"{'task':10} {'PGR':>4} {'interval':22}" + "".join(f" {f'S={s}: covers, width':>22}" for s in SEEDS))
    for task in TASKS:
        if args.task not in (None, task.name):
            continue
        for pgr, sd in task.students:
            columns = [measure(task, pgr, sd, seeds, args.worlds) for seeds in SEEDS]
            for number, kind in enumerate(kinds(task, pgr)):
                rows = [column[number] for column in columns]
                bad += sum(kind.must and not row.good for row in rows)
                shown = "".join(f" {100 * row.covered:15.1f} {row.width:6.3f}" for row in rows)
                note = "" if kind.must else "  (for comparison)"
                print(f"{task.name:10} {pgr:4.2f} {kind.name:22}{shown}{note}", flush=True)
    print(f"{bad} intervals outside {100 * LOW:.0f} to {100 * HIGH:.0f} %, {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run_script(main))
