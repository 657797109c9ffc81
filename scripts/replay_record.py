"""Run a record again: the same teachers, seeds, items and code, and see whether the same numbers come out.

    python scripts/replay_record.py runs/quickstart                  # which records there are
    python scripts/replay_record.py runs/quickstart rec-000012

A campaign reveals its secret when its finalists are sealed; before that only its owner can do this. Everything is made
anew in a run directory of its own (deleted afterwards unless --keep): teachers, ceilings, baselines and the method,
from pretrained models in the cache. On the same machine, with the same version of the library, every figure is the
same to the last bit, unless a method looks at the clock or runs out of time; elsewhere, sums in another order may move
some of them a little. Exit status 1: a figure differs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

from actors.evaluator.records import verify
from actors.evaluator.secret import write_private
from actors.evaluator.seeds import SEEDS_BY_CODE, read_secret
from actors.observer.run_data import RunData, load_run
from cluster.config import dump_config, load_stored
from cluster.errors import AarError
from cluster.names import RunPaths
from cluster.terminal import complain, run_script
from cluster.text import visible_line
from scripts.run_campaign import check_machine
from scripts.score_method import in_run

BOUND = ("code_hash", "data_version", "seeds", "n", "seed_commitment")
"""What must agree before a run makes sense, or because of it."""
FIGURES = (
    "per_seed",
    "failed_seeds",
    "accuracy",
    "accuracy_interval",
    "pgr",
    "interval",
    "weak_accuracy",
    "ceiling_accuracy",
)


def find(run: RunData, record_id: str) -> dict[str, Any]:
    """A record of the evaluator's journal, its signature checked. Raises `AarError`."""
    records = {str(event.payload.get("record_id")): event.payload for event in run.events("evaluator", "record")}
    if record_id not in records:
        raise AarError(f"{run.name} has no record {record_id!r}; it has {len(records)}")
    record = records[record_id]
    public = (run.public_key or b"").decode("ascii", "replace")
    if not verify(record, public):
        raise AarError(f"{record_id} does not carry the signature of {run.name}'s evaluator")
    if not record["code_hash"]:
        raise AarError(f"{record_id} is of the {record['method']}s, which are run again with any method's record")
    return record


def prepare_run(run: RunData, target: Path, patience: float = 1.0, shared_seeds: bool = True) -> None:
    """A run directory with the configuration, the secret and the snapshots of `run`, and nothing else of it.

    In the first campaigns seeds were each code's own (`shared_seeds`). A seed may take `patience` times as long as in
    the campaign.
    """
    paths = RunPaths(target)
    target.mkdir(parents=True)
    seconds = patience * load_stored(run.paths.config).runs.seed_seconds
    paths.config.write_text(
        dump_config(load_stored(run.paths.config, (f"runs.seed_seconds={seconds}",))), encoding="utf-8"
    )
    shutil.copytree(run.paths.objects, paths.objects)
    if not shared_seeds:
        write_private(paths.judge / SEEDS_BY_CODE, b"")
    write_private(paths.judge / "secret.bin", bytes.fromhex(read_secret(run.paths).revealed()))


def replay(run: RunData, record: dict[str, Any], target: Path, patience: float) -> dict[str, Any]:
    """The figures of a record, made anew in `target`."""
    prepare_run(run, target, patience, bool(record.get("entrant")))
    config = load_stored(RunPaths(target).config)
    check_machine(config, target.parent)
    asked = (record["snapshot"], record["method"], record["tier"], record["domain"])
    found: dict[str, Any] = in_run(target, config, lambda evaluator: evaluator.replay(*asked))
    return found


def differences(record: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """Names of figures that are not the same."""
    return [name for name in (*BOUND, *FIGURES) if record[name] != again[name]]


def show(record: dict[str, Any], again: dict[str, Any]) -> None:
    for name in (*BOUND, *FIGURES):
        same = record[name] == again[name]
        print(f"{'same  ' if same else 'DIFFERS'} {name}: {record[name]}" + ("" if same else f" -> {again[name]}"))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the campaign's directory")
    parser.add_argument("record", nargs="?", help="a record id, for example rec-000012")
    parser.add_argument("--patience", type=float, default=1.0, help="so many times the campaign's limit for a seed")
    parser.add_argument("--keep", type=Path, help="make the replay in this new directory and keep it")
    args = parser.parse_args(argv)
    try:
        run = load_run(args.run)
        if args.record is None:
            for event in run.events("evaluator", "record"):
                r = event.payload
                method = visible_line(r["method"][:40])
                print(f"{r['record_id']}  {r['tier']:5} {r['domain']:5} {method:40} {r['accuracy']:.4f}")
            return 0
        record = find(run, args.record)
        with tempfile.TemporaryDirectory(prefix="aar-replay-") as folder:
            Path(folder).chmod(0o755)  # sandboxes read what is handed to them as another user
            again = replay(run, record, args.keep or Path(folder) / f"replay-{args.record}", args.patience)
    except (AarError, OSError) as error:
        complain("replay_record", error)
        return 2
    show(record, again)
    differing = differences(record, again)
    print(f"{args.record} of {run.name}: " + (f"{', '.join(differing)} differ" if differing else "the same numbers"))
    if "failed_seeds" in differing:
        print("A seed failed on one side only: on a busy machine it may have run out of time; try --patience 4.")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(run_script(main))
