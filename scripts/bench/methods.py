"""How much of the gap each published method recovers on the generated domains.

    python scripts/bench/methods.py --size quick --seeds 5 [--domains chat math code] [--methods vanilla logconf ...]
                                    [--cache DIR] [--json OUT] [--set NAME.PARAMETER=VALUE ...]

Prints a markdown table: for each domain the mean PGR with its 95 % interval over seeds and items, the paired difference
to vanilla in PGR with its two-sided p-value, and the CPU seconds of one run. Items about one question count as one
cluster. p is not adjusted for the number of methods: of 37 that do not differ, .4 are expected below .01.

One process, one thread. Weak teachers, ceilings, hidden states and zero-shot predictions are made once for each seed
and shared by all methods, as in a campaign; pretrained models and finished runs are kept in `--cache` and used again.
All methods of a domain are scored on the same test items.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import numpy as np
import numpy.typing as npt
import torch
from transformers.utils import logging as transformers_logging

from actors.evaluator.statistics import compare, estimate_pgr
from cluster.terminal import run_script
from cluster.training import Training
from gpu_pool.library import engine_version
from gpu_pool.weak_to_strong import LabelModel, MethodRun, Student, blocks
from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, Domain, get_domain, write_pretrain_inputs
from gpu_pool.weak_to_strong.entrypoints import load_method
from gpu_pool.weak_to_strong.errors import W2SError
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.methods import registry
from gpu_pool.weak_to_strong.methods.ceiling import train_ceiling
from gpu_pool.weak_to_strong.methods.teacher import train_teacher
from gpu_pool.weak_to_strong.models import initial_lm
from gpu_pool.weak_to_strong.pretrain import pretrain_model
from gpu_pool.weak_to_strong.run import RunParams

Hits = npt.NDArray[np.bool_]
TEST_SEED = 10_000
SMALL_P = 0.01
CONTROL = "vanilla, not pretrained"
SHARED = ("hidden", "prior", "swapped_hidden", "swapped_prior")


@dataclass(frozen=True)
class Bench:
    """One domain with its two models and its test items."""

    domain: Domain
    cache: Path
    world_seed: int = 0

    def folder(self, which: Any) -> Path:
        """The folder of the strong or the weak model, pretrained once."""
        shape = self.domain.spec.strong if which == "strong" else self.domain.spec.weak
        spec = self.domain.spec
        key = digest(spec.name, spec.size, self.world_seed, spec.documents, which, shape, source("domains"))
        folder = self.cache / f"{self.domain.name}-{which}-{key}"
        if not (folder / "config.json").is_file():
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as inputs:
                params = write_pretrain_inputs(self.domain, which, Path(inputs))
                pretrain_model(Path(inputs), folder, params)
            say(f"{self.domain.name}: {which} model pretrained in {time.monotonic() - start:.0f} s")
        return folder

    @cached_property
    def strong(self) -> LabelModel:
        """The pretrained strong model."""
        return LabelModel.load(self.folder("strong"), self.domain.kind)

    @cached_property
    def weak(self) -> LabelModel:
        """The pretrained weak model."""
        return LabelModel.load(self.folder("weak"), self.domain.kind)

    def untrained(self, seed: int) -> LabelModel:
        """A model of the strong one's shape with random weights."""
        lm = initial_lm(self.folder("strong") / "config.json", seed)
        return LabelModel(lm.eval(), self.strong.tokenizer, self.strong.kind, self.strong.fmt)

    @cached_property
    def test(self) -> tuple[ItemSet, npt.NDArray[np.int8]]:
        """Test items and their labels, the same for every seed."""
        return self.domain.sample(self.domain.spec.test, TEST_SEED)

    def hits(self, student: Student) -> Hits:
        """Whether the student judges each test item rightly, (n,)."""
        items, labels = self.test
        return np.asarray((student.predict(items)[:, 1] > 0.5) == (labels == 1))


class Seed:
    """What all methods of one seed share."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self._bench, self._seed = bench, seed
        self._made: dict[str, Any] = {}
        spec = bench.domain.spec
        self.items, self._labels = bench.domain.sample(spec.unlabelled, 1000 + seed)

    @cached_property
    def teacher(self) -> Student:
        """The weak teacher, trained on this seed's labelled items."""
        spec = self._bench.domain.spec
        items, labels = self._bench.domain.sample(spec.labelled, 2000 + self._seed)
        return train_teacher(self._bench.weak, items, labels, self._params(spec.teacher))

    def ceiling(self) -> Student:
        """The strong model trained on the truth of the unlabelled items."""
        student = self._bench.domain.spec.student
        return train_ceiling(self._bench.strong, self.items, self._labels, self._params(student))

    @cached_property
    def opinions(self) -> npt.NDArray[np.float64]:
        """P(label 1) of the unlabelled items by each of the teacher's members (n, k)."""
        return self.teacher.opinions(self.items)

    @cached_property
    def weak(self) -> npt.NDArray[np.float32]:
        """The teacher's P(label 1) of the unlabelled items."""
        return self.teacher.pool(self.opinions)[:, 1]

    def prepare(self, name: str) -> None:
        """Make what is not part of the time of `name`: models, and the teacher's labels for a method."""
        _ = self._bench.weak if name == "weak" else self._bench.strong
        if name not in ("weak", "ceiling"):
            _ = self.weak

    def control(self) -> Student:
        """`vanilla` on a model that was never pretrained: what it recovers does not come from the strong model."""
        params, base = self._params(self._bench.domain.spec.student), self._bench.untrained(self._seed)
        run = MethodRun(self.items, self.weak, base, params)
        return run.student(run.fit(blocks.hard(run.weak)))

    def train(self, method: str) -> Student:
        """The student of a method file's text; inputs that were computed are kept for the next method."""
        params = self._params(self._bench.domain.spec.student)
        run = MethodRun(self.items, self.weak, self._bench.strong, params, weak_members=self.opinions)
        run.__dict__.update(self._made)
        with tempfile.TemporaryDirectory() as code:
            (Path(code) / "method.py").write_text(method, encoding="utf-8")
            try:
                student = load_method(Path(code)).train(run)
            finally:
                sys.path.remove(code)
        self._made = {name: run.__dict__[name] for name in SHARED if name in run.__dict__}
        return student  # type: ignore[no-any-return]

    def _params(self, spec: Training) -> RunParams:
        return RunParams.of(spec, seed=self._seed, threads=1)


def measure(bench: Bench, seed: int, texts: dict[str, str]) -> dict[str, tuple[Hits, float]]:
    """Hits and seconds of weak, ceiling and each method at one seed; what is in the cache is not run again."""
    shared = Seed(bench, seed)
    out = {}
    made = {"weak": lambda: shared.teacher, "ceiling": shared.ceiling, CONTROL: shared.control}
    for name, text in {**dict.fromkeys(made, ""), **texts}.items():
        spec = bench.domain.spec
        key = digest(name, text, seed, spec, bench.world_seed, engine_version(), source("domains"))
        path = bench.cache / "hits" / f"{spec.name}-{name}-{seed}-{key}.json"
        if not path.is_file():
            shared.prepare(name)
            start = time.process_time()
            student = made[name]() if name in made else shared.train(text)
            seconds = time.process_time() - start
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"hits": bench.hits(student).astype(int).tolist(), "seconds": seconds}))
        stored = json.loads(path.read_text())
        out[name] = (np.array(stored["hits"], dtype=bool), float(stored["seconds"]))
        say(f"{spec.name} seed {seed} {name}: accuracy {out[name][0].mean():.3f}, {out[name][1]:.1f} s")
    return out


def rows(
    domain: str, measured: list[dict[str, tuple[Hits, float]]], groups: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    """One row of figures for each name; `groups` (items,) are the test items that hang together.

    p is two-sided, of the paired difference in accuracy to vanilla, unadjusted over methods.
    """
    hits = {name: np.stack([one[name][0] for one in measured]) for name in measured[0]}
    gap = float(hits["ceiling"].mean() - hits["weak"].mean())
    out = []
    for name, own in hits.items():
        pgr = estimate_pgr(own, hits["weak"], hits["ceiling"], groups)
        row: dict[str, Any] = {"domain": domain, "method": name, "accuracy": float(own.mean()), "seeds": len(own)}
        row["accuracies"] = own.mean(axis=1).tolist()
        row |= {"pgr": pgr.value, "low": pgr.low, "high": pgr.high}
        row["per_seed"] = [
            (float(a.mean()) - float(w.mean())) / max(1e-9, float(c.mean() - w.mean()))
            for a, w, c in zip(own, hits["weak"], hits["ceiling"], strict=True)
        ]
        row["seconds"] = float(np.mean([one[name][1] for one in measured]))
        if "vanilla" in hits and name not in ("vanilla", "weak", "ceiling"):
            versus = compare(own, hits["vanilla"], groups)
            p = 2 * min(versus.p, 1 - versus.p) if len(own) > 1 else math.nan
            row |= {"difference": versus.difference / gap, "p": p}
            row["times_vanilla"] = row["seconds"] / max(1e-9, float(np.mean([one["vanilla"][1] for one in measured])))
        out.append(row)
    return out


def table(all_rows: list[dict[str, Any]]) -> str:
    """Markdown: a row for each method, for each domain PGR [95 %], difference to vanilla (p) and CPU seconds."""
    domains = list(dict.fromkeys(row["domain"] for row in all_rows))
    by = {(row["domain"], row["method"]): row for row in all_rows}
    lines = ["| method | " + " | ".join(f"{d}: PGR [95 %] | vs vanilla (p) | CPU s" for d in domains) + " |"]
    lines.append("|---|" + "---|" * (3 * len(domains)))
    for name in dict.fromkeys(row["method"] for row in all_rows):
        cells = [cell for d in domains for cell in cells_of(by[d, name])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(domain_rows: list[dict[str, Any]]) -> str:
    """What a domain is like: how steady its teachers are, how many methods differ from vanilla, which is best."""
    by = {row["method"]: row for row in domain_rows}
    spread = float(np.std(by["weak"]["accuracies"], ddof=1)) if by["weak"]["seeds"] > 1 else math.nan
    methods = [row for name, row in by.items() if name not in ("weak", "ceiling", CONTROL)]
    differ = [row["method"] for row in methods if row.get("p", 1.0) < SMALL_P]
    best = max(methods, key=lambda row: row["pgr"])
    return (
        f"{by['weak']['domain']}: teachers' accuracy sd {spread:.3f}, gap "
        f"{by['ceiling']['accuracy'] - by['weak']['accuracy']:.3f}; {len(differ)} of {len(methods) - 1} methods differ "
        f"from vanilla at p < {SMALL_P} (unadjusted); best {best['method']} ({best['pgr']:.2f})"
    )


def cells_of(row: dict[str, Any]) -> list[str]:
    """PGR with interval (accuracy for weak and ceiling), difference with p, seconds."""
    if row["method"] in ("weak", "ceiling"):
        return [f"accuracy {row['accuracy']:.3f}", "", f"{row['seconds']:.1f}"]
    between = "" if math.isnan(row["low"]) else f" [{row['low']:.2f}, {row['high']:.2f}]"
    versus = f"{row['difference']:+.2f}" if "difference" in row else ""
    if versus and not math.isnan(row["p"]):
        versus += f" ({row['p']:.3f})"
    return [f"{row['pgr']:.2f}{between}", versus, f"{row['seconds']:.1f}"]


def method_texts(names: list[str], settings: list[str]) -> dict[str, str]:
    """The file of each method; `settings` are `name.parameter=value` with a value in JSON (or a plain word)."""
    given: dict[str, dict[str, Any]] = {}
    for setting in settings:
        where, _, value = setting.partition("=")
        name, _, parameter = where.partition(".")
        if name not in names:
            raise W2SError(f"--set {setting}: {name!r} is not among the methods that run")
        try:
            given.setdefault(name, {})[parameter] = json.loads(value)
        except json.JSONDecodeError:
            given[name][parameter] = value
    return {name: registry.source_of(name, **given.get(name, {})) for name in names}


def source(part: str) -> str:
    """A digest of a part of the library that decides what is in the cache and is not in `engine_version`."""
    folder = Path(registry.__file__).resolve().parent.parent / part
    return digest(*(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))))


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(repr(part) for part in parts).encode()).hexdigest()[:16]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="quick", choices=("quick", "standard"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--world-seed", type=int, default=0, help="another world: other words are good, other sums hard"
    )
    parser.add_argument("--domains", nargs="+", default=list(DOMAIN_NAMES), choices=DOMAIN_NAMES)
    parser.add_argument("--methods", nargs="+", default=list(registry.names()), metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="NAME.PARAMETER=VALUE", dest="settings")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "aar" / "bench_methods")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures there as well")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    all_rows: list[dict[str, Any]] = []
    try:
        texts = method_texts(list(dict.fromkeys(["vanilla", *args.methods])), args.settings)
        for name in args.domains:
            bench = Bench(get_domain(name, args.size, args.world_seed), args.cache, args.world_seed)
            measured = [measure(bench, seed, texts) for seed in range(args.seeds)]
            all_rows += rows(name, measured, bench.test[0].group_index())
            own = [row for row in all_rows if row["domain"] == name]
            print(table(own), summary(own), sep="\n\n", end="\n\n", flush=True)
    except W2SError as error:
        say(f"bench_methods: {error}")
        return 2
    if len(args.domains) > 1:
        print(table(all_rows))
    if args.json is not None:
        args.json.write_text(json.dumps(all_rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
