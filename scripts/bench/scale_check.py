"""Does a method's gain over vanilla survive on other models? Runs both on a ladder of model pairs.

    python scripts/bench/scale_check.py my_method.py --task generated:math --seeds 5
    python scripts/bench/scale_check.py em_posterior --task items.jsonl --pair WEAK:STRONG --pair WEAK2:STRONG2

On a generated task a rung is WEAK:STRONG:WORLD, the widths of the two models as multiples of the world's own (layers
grow with the square root) and the seed of the world that they are pretrained in; by default 1:1 in the task's world,
1:1.5 in the next, 1.33:2 in the one after. On any other task a rung is a --pair of model folders or hub ids.

The gain of a rung is the accuracy of the method minus that of vanilla, paired by seed and test item, with its two-sided
95 % interval. A rung counts when its ceiling is surely above its weak teacher. The verdict:

    survives          the interval lies above 0 on every rung that counts
    shrinks           the gain is above 0 on each of them, but the interval only on some
    does not survive  anything else, also when no interval lies above 0
    undecided         fewer than two rungs count, or there is one seed only

A method file is run in this process, without a sandbox: only your own code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import math

from actors.evaluator.statistics import Comparison, PgrEstimate, compare, estimate_pgr
from cluster.errors import AarError
from cluster.terminal import run_script
from gpu_pool.weak_to_strong.domains import ModelShape
from gpu_pool.weak_to_strong.experiment import Experiment, ExperimentError, MethodFile, Pretrained, world_of
from gpu_pool.weak_to_strong.tasks import generated_domain
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts
from scripts import w2s_options
from scripts.w2s_table import between, shown_pgr


@dataclass(frozen=True)
class Rung:
    """One pair of models: accuracies, both PGRs, and the paired gain in accuracy."""

    name: str
    weak: float
    ceiling: float
    method: PgrEstimate
    vanilla: PgrEstimate
    gain: Comparison

    @property
    def counts(self) -> bool:
        """Whether there is surely a gap to recover, and more than one seed."""
        return self.vanilla.defined and self.method.defined and not math.isnan(self.gain.low)

    def to_dict(self) -> dict[str, Any]:
        """The gain as plain JSON; what is not known is null."""
        gain = {name: None if math.isnan(value) else value for name, value in dataclasses.asdict(self.gain).items()}
        return {"pair": self.name, "counts": self.counts, **gain}


def verdict(rungs: Sequence[Rung]) -> str:
    """The rule of this module's docstring."""
    gains = [rung.gain for rung in rungs if rung.counts]
    if len(gains) < 2:
        return "undecided"
    if all(gain.low > 0 for gain in gains):
        return "survives"
    if all(gain.difference > 0 for gain in gains) and any(gain.low > 0 for gain in gains):
        return "shrinks"
    return "does not survive"


def measure(name: str, experiment: Experiment, method: MethodFile, seeds: range) -> Rung:
    """Run method and vanilla on one pair of models; what was cut and dropped goes to the error stream."""
    experiment.ceiling_truth()
    weak, ceiling = experiment.weak(seeds), experiment.ceiling(seeds)
    vanilla, own = (experiment.method(one, seeds) for one in (MethodFile.of("vanilla"), method))
    for note in w2s_options.notes(experiment, {"weak": weak, "strong": ceiling}):
        print(f"{name}: {note}", file=sys.stderr, flush=True)
    groups = experiment.task.test.items.group_index()
    both = [estimate_pgr(scores.hits, weak.hits, ceiling.hits, groups) for scores in (own, vanilla)]
    return Rung(name, weak.accuracy, ceiling.accuracy, both[0], both[1], compare(own.hits, vanilla.hits, groups))


def scaled(shape: ModelShape, factor: float) -> ModelShape:
    """The shape `factor` times as wide, in whole heads, with layers growing by the square root."""
    heads = max(1, round(shape.hidden * factor / shape.head_dim))
    return ModelShape(heads * shape.head_dim, max(1, round(shape.layers * factor**0.5)), shape.head_dim)


def ladder(args: argparse.Namespace) -> list[tuple[str, Experiment]]:
    """The rungs by name. Raises ExperimentError for options that do not describe any."""
    if args.pair:
        pairs = [pair.partition(":") for pair in args.pair]
        if args.rung or not all(weak and strong for weak, _, strong in pairs):
            raise ExperimentError("--pair: expected WEAK:STRONG, two folders or hub ids, and no --rung")
        _distinct(args.pair, "--pair")
        return [(f"{w}:{s}", w2s_options.experiment(args, args.task, w, s)) for w, _, s in pairs]
    domain = generated_domain(args.task)
    if domain is None:
        raise ExperimentError(f"task {args.task} has no models of its own: give two or more --pair WEAK:STRONG")
    world = int(world_of(domain, args.task).rpartition(":")[2])
    chosen = args.rung or [f"1:1:{world}", f"1:1.5:{world + 1}", f"1.33:2:{world + 2}"]
    _distinct(chosen, "--rung")
    return [(rung, on_world(args, domain.name, domain.spec.size, rung)) for rung in chosen]


def _distinct(chosen: Sequence[str], option: str) -> None:
    if len(set(chosen)) < len(chosen):
        raise ExperimentError(f"{option}: given twice, and one pair of models must not count twice")


def on_world(args: argparse.Namespace, name: str, size: str, rung: str) -> Experiment:
    """The experiment of a rung WEAK:STRONG:WORLD."""
    try:
        weak_factor, strong_factor, world = rung.split(":")
        factors, seed = (float(weak_factor), float(strong_factor)), int(world)
        if not all(0.1 <= factor <= 100 for factor in factors) or seed < 0:
            raise ValueError("factors between 0.1 and 100, a seed not below 0")
    except ValueError as error:
        raise ExperimentError(f"--rung {rung}: expected WEAK:STRONG:WORLD as in 1:1.5:2 ({error})") from error
    task = f"generated:{name}:{size}:{seed}"
    domain, artefacts = generated_domain(task), Artefacts(args.cache)
    assert domain is not None
    specs = (domain.spec.weak, domain.spec.strong)
    weak_spec, strong_spec = (
        dataclasses.replace(spec, shape=scaled(spec.shape, factor)) if factor != 1 else spec
        for spec, factor in zip(specs, factors, strict=True)
    )
    weak = Pretrained(domain, world_of(domain, task), "weak", artefacts, weak_spec)
    strong = Pretrained(domain, world_of(domain, task), "strong", artefacts, strong_spec)
    return w2s_options.experiment(args, task, weak, strong)


def show(rungs: Sequence[Rung], method: str) -> str:
    """Markdown: a row for each rung."""
    lines = [f"| pair | weak | ceiling | PGR {method} | PGR vanilla | gain in accuracy [95 %] |", "|" + "---|" * 6]
    for rung in rungs:
        gain = between(rung.gain.difference, rung.gain.low, rung.gain.high, sign="+")
        cells = [rung.name, f"{rung.weak:.3f}", f"{rung.ceiling:.3f}", shown_pgr(rung.method), shown_pgr(rung.vanilla)]
        lines.append("| " + " | ".join([*cells, gain if rung.counts else f"{gain} (does not count)"]) + " |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", metavar="METHOD", help="a published method's name or your own file")
    parser.add_argument("--pair", action="append", metavar="WEAK:STRONG", help="two folders or hub ids; repeat it")
    parser.add_argument(
        "--rung", action="append", metavar="WEAK:STRONG:WORLD", help="width factors and world; repeat it"
    )
    w2s_options.add_options(parser)
    args = parser.parse_args(argv)
    try:
        w2s_options.prepare(args)
        method = w2s_options.methods([args.method], args.param)[0]
        rungs = [measure(name, experiment, method, w2s_options.seeds(args)) for name, experiment in ladder(args)]
    except AarError as error:
        print(f"scale_check: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{show(rungs, method.name)}\n\nThe gain of {method.name} over vanilla: {verdict(rungs)}.")
    if args.json is not None:
        figures = {"verdict": verdict(rungs), "rungs": [rung.to_dict() for rung in rungs]}
        args.json.write_text(json.dumps(figures, indent=1, allow_nan=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
