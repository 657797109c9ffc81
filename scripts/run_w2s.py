"""A weak-to-strong experiment from a terminal: PGR of methods with an interval, and a table.

    python scripts/run_w2s.py --task generated:math --method em_posterior --seeds 5
    python scripts/run_w2s.py --task items.jsonl --weak PATH --strong PATH --method vanilla --method my_method.py

A method is a published one by name, or a file that defines `train(run) -> Student` (gpu_pool/weak_to_strong/run.py). A
method file is run in this process, without a sandbox, with all your rights and with the truth in reach: only your own
code. Score other people's with a campaign's evaluator.

Seed s of a method learns from the labels of teacher s; data are the same for all seeds; intervals count seeds and test
items. Everything is kept in --cache by its content and read again on the next run. p-values are two-sided, paired by
seed and item, Holm-adjusted over the methods compared with vanilla. Seconds are those of training one seed, without
scoring and without what runs share (models, tokens, states, priors).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from cluster.errors import AarError
from cluster.terminal import run_script
from scripts import w2s_options, w2s_table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--method", action="append", metavar="METHOD", help="a published method's name or your own file; repeat it"
    )
    parser.add_argument("--weak", metavar="MODEL", help="the teacher's model: a folder or a hub id")
    parser.add_argument("--strong", metavar="MODEL", help="the student's model: a folder or a hub id")
    w2s_options.add_options(parser)
    args = parser.parse_args(argv)
    try:
        return run(args)
    except AarError as error:
        print(f"run_w2s: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Run what was asked for and print the table."""
    w2s_options.prepare(args)
    methods = w2s_options.methods(args.method or ["vanilla"], args.param)
    experiment, seeds = w2s_options.experiment(args, args.task, args.weak, args.strong), w2s_options.seeds(args)
    experiment.ceiling_truth()
    weak, ceiling = experiment.weak(seeds), experiment.ceiling(seeds)
    scores = [experiment.method(method, seeds) for method in methods]
    test = experiment.task.test.items
    rows = w2s_table.rows(weak, ceiling, scores, test.group_index())
    count = f"{args.seeds} seed{'s' if args.seeds > 1 else ''}"
    notes = w2s_options.notes(experiment, {"weak": weak, "strong": ceiling})
    print("\n".join([f"{experiment.task.name}: {len(test)} test items, {count}", *notes]))
    print(f"\n{w2s_table.table(rows)}")
    if args.seeds == 1:
        print("\nOne seed gives no interval: use --seeds 3 or more.")
    if args.json is not None:
        per_seed = {s.name: s.hits.mean(axis=1).tolist() for s in (weak, ceiling, *scores)}
        figures = {
            "task": experiment.task.name,
            "task_hash": experiment.task.content_hash,
            "notes": list(experiment.task.notes),
            "cut": {"weak": weak.cut, "strong": ceiling.cut},
            "seeds": list(seeds),
            "test_items": len(test),
            "rows": [row.to_dict() for row in rows],
            "accuracy_per_seed": per_seed,
        }
        args.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
