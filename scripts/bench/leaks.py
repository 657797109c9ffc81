"""How much false accuracy can an adaptive attacker take from the evaluator's answers? Measured on the real evaluator.

    python scripts/bench/leaks.py                       # k = 500 BOARD submissions, about a minute an attack
    python scripts/bench/leaks.py --submissions 40      # as shipped

The evaluator, its board, tiers, records and store are the campaign's own; only training is replaced: a method here
names a function of the items, and its students answer with that function (`--fidelity`: how closely, 1 is the most
that anybody could wish for). Labels are coin flips, so that whatever rises above a half was leaked. An attacker hands
in methods through `submit`, sees what a researcher sees, and at the end names the function that he believes in, or one
that is right on exactly half of the items if he learnt nothing. It is scored on DEV, BOARD and SEAL. Flipping one
prediction cannot be tried: nothing takes predictions. DEV is expected to lose: it wears out, claims nothing, and
shares no item with the others.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import numpy as np
import numpy.typing as npt

from actors.evaluator.domain_evaluator import DomainEvaluator
from actors.evaluator.evaluator import Evaluator
from actors.evaluator.result_store import ScoredRun, Usage
from actors.evaluator.scoring import ReferenceScores
from actors.evaluator.scoring_runs import Payer
from actors.evaluator.secret import Secret, write_private
from actors.evaluator.source import Method, read_method
from actors.evaluator.splits import TASK_VERSION, Splits
from actors.evaluator.statistics.variance import Hits
from actors.evaluator.tiers import Tier, ceilings_of, seeds_of
from actors.scheduler.client import SchedulerClient
from cluster.config import CampaignConfig, load_config
from cluster.errors import Reason, RefusedError
from cluster.journal import Journal
from cluster.names import CAMPAIGN, RunPaths
from cluster.objects import ObjectStore
from cluster.remote import Local
from cluster.store import Store
from cluster.terminal import run_script
from gpu_pool.leases import LeaseRequest, LeaseResult
from gpu_pool.weak_to_strong.domains import Domain, get_domain
from gpu_pool.weak_to_strong.items import ItemSet
from scripts.bench.free_ledger import FreeLedger

ITEMS = 1263
SPLITS: tuple[Tier, ...] = ("dev", "board", "seal")
USAGE = Usage(("made-up",), 1, "A", "")
WEAK, CEILING = 0.5, 0.8
DEV_LIMIT = 300
LIMIT = 2.0
Answers = npt.NDArray[np.bool_]
Function = dict[Tier, Answers]
"""What a function of the items says of each split's items."""


class Coins:
    """A domain whose labels are coin flips; items are numbers."""

    def __init__(self, items: int) -> None:
        self._like: Domain = get_domain("chat", "quick", 0)
        self.name, self.kind = self._like.name, self._like.kind
        self.spec = replace(self._like.spec, labelled=40, unlabelled=40, test=items)

    def __getattr__(self, name: str) -> Any:
        """Whatever else a domain has is never asked for here."""
        return getattr(self._like, name)

    def sample(self, n: int, seed: int | bytes) -> tuple[ItemSet, npt.NDArray[np.int8]]:
        """Items with prompts that no other seed has, and coins."""
        key = int.from_bytes(seed, "big") if isinstance(seed, bytes) else seed
        rng, base = np.random.default_rng(key), key % 10**12
        ids = tuple(f"{base}-{i}" for i in range(n))
        items = ItemSet(self.kind, ids, tuple(f"prompt {i}" for i in ids), ("yes",) * n, ("no",) * n)
        return items, rng.integers(0, 2, n).astype(np.int8)


class Students:
    """Which function each method's students answer with, and how often they fail to."""

    def __init__(self, fidelity: float, rng: np.random.Generator) -> None:
        self._fidelity, self._rng = fidelity, rng
        self._functions: dict[str, Function] = {}

    def learn(self, code_hash: str, function: Function) -> None:
        """From now on the method of that hash means that function."""
        self._functions[code_hash] = function

    def hits(self, code_hash: str, tier: Tier, labels: npt.NDArray[np.int8], seeds: int) -> Hits:
        """Hits (seeds, n) of fresh students; of a method without a function, those of coin flips."""
        function = self._functions.get(code_hash)
        shape = (seeds, len(labels))
        if function is None:
            return self._rng.random(shape) < WEAK
        follows = self._rng.random(shape) < (1 + self._fidelity) / 2
        return np.asarray(follows == (function[tier] == (labels == 1)))


class MadeUpDomainEvaluator(DomainEvaluator):
    """A domain evaluator without a cluster: students are made up, everything that is said of them is real."""

    def __init__(self, students: Students, *made_of: Any) -> None:
        super().__init__(*made_of)
        self._students = students

    async def ready_models(self) -> None:
        """Nothing is trained."""

    def publish(self, public: Path) -> None:
        """There is nothing to show."""

    async def teachers(self, tier: Tier) -> ScoredRun:
        """Teachers that know nothing."""
        return self._made(f"weak/{self.domain}/{tier}", tier, seeds_of(tier, self._scoring), WEAK)

    async def runs(self, methods: Sequence[Method], tier: Tier, payer: Payer) -> list[ScoredRun]:
        """Counted runs, each once."""
        seeds = seeds_of(tier, self._scoring)
        return [
            self._kept(
                self.counted.key(m.code_hash, tier), self._students.hits(m.code_hash, tier, self._truth(tier), seeds)
            )
            for m in methods
        ]

    async def bench(self, tier: Tier, payer: Payer) -> ReferenceScores:
        """Teachers, ceilings and baselines."""
        await self.teachers(tier)
        self._made(f"ceiling/{self.domain}/{tier}", tier, len(ceilings_of(tier)), CEILING)
        await self.runs(list(self.baselines_of(tier).values()), tier, payer)
        return self.known_bench(tier)

    def _truth(self, tier: Tier) -> npt.NDArray[np.int8]:
        return self._t.splits.split(tier).labels

    def _made(self, key: str, tier: Tier, seeds: int, skill: float) -> ScoredRun:
        rng = self._t.secret.generator("made up", key)
        return self._kept(key, rng.random((seeds, len(self._truth(tier)))) < skill)

    def _kept(self, key: str, hits: Hits) -> ScoredRun:
        if self._t.result_store.get(key) is None:
            self._t.result_store.put_run(key, ScoredRun(hits, {}, USAGE))
        found = self._t.result_store.run(key)
        assert found is not None
        return found


class FreeScheduler(FreeLedger):
    """Grants everything: the attacker has all answers of the campaign to himself."""

    def run(self, request: LeaseRequest) -> LeaseResult:
        """Nothing is run here."""
        raise RefusedError(Reason.NO_CLUSTER, "students are made up")


class Arena:
    """One campaign under attack. Answers of the evaluator are all that an attack may look at."""

    def __init__(self, root: Path, items: int, submissions: int, fidelity: float, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.submissions = submissions
        self._students = Students(fidelity, np.random.default_rng(seed + 10**6))
        paths = RunPaths(root / "leaks")
        write_private(paths.judge / "secret.bin", self.rng.bytes(32))
        config = configuration(submissions, root)
        self._domain = Coins(items)
        self._objects = ObjectStore(paths.objects)
        store = Store(paths.evaluator_db)
        make = partial(MadeUpDomainEvaluator, self._students)
        free = SchedulerClient(Local(FreeScheduler()))
        self.evaluator = Evaluator(
            paths,
            config,
            free,
            store,
            Journal(store),
            lambda name: self._domain,
            make,
        )
        self._splits = Splits(Secret.load_or_create(paths.judge / "secret.bin"), self._domain)
        self._asked = 0

    def start(self) -> Function:
        """A function that is right on half of the items of every split: what an attacker has who knows nothing."""
        found: Function = {}
        for tier in SPLITS:
            labels = self._splits.split(tier).labels == 1
            found[tier] = labels ^ self.rng.permutation(np.arange(len(labels)) % 2 == 0)
        return found

    def random(self) -> Function:
        """A function of the items that has nothing to do with their labels."""
        return {tier: self.rng.random(len(self._splits.split(tier))) < 0.5 for tier in SPLITS}

    def ask(self, function: Function, tier: Tier) -> dict[str, Any]:
        """The evaluator's answer to a method that means `function`. Raises `RefusedError`."""
        self._asked += 1
        source = f"FUNCTION = {self._asked}\n\n\ndef train(run):\n    return FUNCTION\n"
        snapshot = self._objects.put_tree({"method.py": source.encode()})
        self._students.learn(read_method(self._objects, snapshot, "", TASK_VERSION).code_hash, function)
        return asyncio.run(self.evaluator.submit(f"ask/{self._asked}", "01-attacker", snapshot, "m", tier))

    def gain(self, function: Function, tier: Tier) -> float:
        """What an attacker has learnt of a split: points of accuracy above a half. For the harness, not for attacks."""
        split = self._splits.split(tier)
        return 100 * float((function[tier] == (split.labels == 1)).mean() - 0.5)


def configuration(submissions: int, root: Path) -> CampaignConfig:
    """The quickstart's campaign with that many BOARD submissions, and DEV as shipped by default."""
    changes = (
        f"scoring.board_limit={submissions}",
        f"scoring.dev_limit={DEV_LIMIT}",
        "task.domains=[chat]",
        "scoring.reply_seconds=0",
        "scoring.disguise=false",  # items are numbers: there is no world to hide
    )
    return load_config("quickstart", overrides=(*changes, f"pool.cache_dir={root / 'cache'}"))


Attack = Callable[[Arena], Function]


def weighted(functions: Sequence[Function], weights: npt.NDArray[np.float64]) -> Function:
    """The weighted vote of functions."""
    return {
        tier: np.einsum("k,kn->n", weights, np.stack([f[tier] for f in functions]) * 2.0 - 1) > 0 for tier in SPLITS
    }


def guess(arena: Arena, functions: Sequence[Function], answers: Sequence[float], likes: bool = False) -> Function:
    """The vote of `functions` by their answers: of the liked ones alone, or each by how far it lies above the mean."""
    weights = np.asarray(answers, dtype=np.float64)
    weights = weights if likes else weights - weights.mean()
    return weighted(functions, weights) if weights.any() else arena.start()


def random_functions(arena: Arena) -> tuple[list[Function], list[float]]:
    """Submit random functions to the board; each with its answer, 1 for a new best."""
    functions = [arena.random() for _ in range(arena.submissions)]
    return functions, [float(arena.ask(function, "board")["new_best"]) for function in functions]


def random_vote(arena: Arena) -> Function:
    """Vote with the random functions that the board liked (Blum and Hardt's attack)."""
    return guess(arena, *random_functions(arena), likes=True)


def least_squares(arena: Arena) -> Function:
    """Weigh all random functions by their answers."""
    return guess(arena, *random_functions(arena))


def block_climb(arena: Arena, share: float = 0.06) -> Function:
    """Exchange the answers of a random block of items; keep what the board likes."""
    best = arena.start()
    for _ in range(arena.submissions):
        tried = {tier: answers ^ (arena.rng.random(len(answers)) < share) for tier, answers in best.items()}
        if arena.ask(tried, "board")["new_best"]:
            best = tried
    return best


def dev_squares(arena: Arena) -> Function:
    """Least squares on the noised accuracies of DEV, until its answers are used up: what DEV is expected to lose."""
    functions, answers = list[Function](), list[float]()
    while len(functions) < DEV_LIMIT:
        functions.append(arena.random())
        answers.append(arena.ask(functions[-1], "dev")["accuracy"])
    return guess(arena, functions, answers)


ATTACKS: dict[str, Attack] = {
    "random vote": random_vote,
    "least squares": least_squares,
    "block climb, 3 %": partial(block_climb, share=0.03),
    "block climb, 6 %": partial(block_climb, share=0.06),
    "block climb, 12 %": partial(block_climb, share=0.12),
    "least squares on DEV": dev_squares,
}


@dataclass(frozen=True)
class Loss:
    """Points of false accuracy on each split after one attack, and how often the board moved."""

    points: dict[Tier, float]
    moved: int


def attacked(attack: Attack, root: Path, submissions: int, fidelity: float, seed: int, items: int = ITEMS) -> Loss:
    """One attack on a fresh campaign in `root`."""
    arena = Arena(root, items, submissions, fidelity, seed)
    final = attack(arena)
    moved = sum(1 for row in arena.evaluator.leaderboard() if row["researcher"] != CAMPAIGN)
    return Loss({tier: arena.gain(final, tier) for tier in SPLITS}, moved)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=500, help="answers of BOARD that the attacker has")
    parser.add_argument("--fidelity", type=float, default=1.0, help="how closely students follow the wanted function")
    parser.add_argument("--repeats", type=int, default=2, help="campaigns for each attack")
    parser.add_argument("--folder", type=Path, help="where campaigns are made (a memory disk is faster)")
    args = parser.parse_args(argv)
    worst, started = 0.0, time.monotonic()
    print(f"n = {ITEMS}, k = {args.submissions}: points of false accuracy, mean of {args.repeats}")
    print(f"{'attack':22} {'DEV':>6} {'BOARD':>6} {'SEAL':>6} {'moves':>6}")
    for name, attack in ATTACKS.items():
        losses = []
        for seed in range(args.repeats):
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                losses.append(attacked(attack, Path(folder), args.submissions, args.fidelity, seed))
        mean = {tier: float(np.mean([loss.points[tier] for loss in losses])) for tier in SPLITS}
        worst = max(worst, mean["board"])
        shown = " ".join(f"{mean[tier]:6.1f}" for tier in SPLITS)
        print(f"{name:22} {shown} {np.mean([loss.moved for loss in losses]):6.1f}", flush=True)
    chance = 100 * 0.5 / (ITEMS * args.repeats) ** 0.5
    took = time.monotonic() - started
    print(f"most on BOARD {worst:.1f} (limit {LIMIT:.0f}), standard deviation of pure luck {chance:.1f}, {took:.0f} s")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(run_script(main))
