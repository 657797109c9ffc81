"""The red team: every known attack against the real system, and every honest method as a control, in one table.

    python scripts/redteam.py                                  # everything: hours on two cores
    python scripts/redteam.py --domains math --controls sample # minutes
    python scripts/redteam.py --attacks-only                   # the catalogue alone

Attacks of the catalogue (tests/redteam/catalogue.py) are played by pytest. Planted cheats and clean controls are
trained and audited in full on the shipped worlds by the real evaluator, slots and sandboxes, without Ray. Cheats are
planted twice: as shipped, each in the open and behind every gate that hides it from audits, where counted items, secret
world and disguise should leave them no better than the honest method in them (blocked);
and with `scoring.disguise=false`, in the open alone, where the audits must disqualify them (caught). What hides from
audits in a public world is not found there; that is what the first half is for. Controls are audited as shipped. What
was audited stands in `--runs-dir` and is not audited again when the battery goes on there after an interruption.

Exit status 0: nothing missed, nobody wrongly accused; 1: otherwise; 3: something could not be played on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.start import prepare

prepare()  # before torch and Ray are imported, which ask for a home and a user

import pytest
from safetensors.numpy import load_file

from actors.evaluator.statistics import compare
from cluster.config import load_config
from cluster.terminal import run_script
from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, get_domain
from gpu_pool.weak_to_strong.methods import path_of
from gpu_pool.weak_to_strong.methods.registry import names
from tests.redteam.catalogue import ATTACKS, Attack
from tests.redteam.cheats import Cheat, planted, truth_of
from tests.redteam.stage import Stage

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ("vanilla", "soft", "em_posterior", "ue_zeroshot", "ccs", "bootstrap")
"""Controls of a short battery: two plain ones, one that infers, one without labels, a probe, a student of students."""
Word = Literal["blocked", "caught", "missed", "not played", "clean", "tagged", "accused", "open"]
CONTROL = "control"
BY_CHANCE = 0.01
MATTERS = 0.03
"""A cheat is better than the honest method if it is so by this much accuracy and at that p: a hundred are tried."""
BAD: tuple[Word, ...] = ("missed", "accused")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    number: str
    name: str
    seen: str
    word: Word
    note: str
    seconds: float


class Collector:
    """A pytest plug-in that keeps how each test ended, the cases of one test together."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each phase of each test."""
        name = report.nodeid.split("[")[0]
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration
        if report.when == "call" or report.outcome != "passed":
            self.outcomes.setdefault(name, []).append(report.outcome)


def play_catalogue(attacks: Sequence[Attack]) -> list[Row]:
    """Play every attack; a test that serves several rows runs once."""
    plays = sorted({play for attack in attacks for play in attack.plays})
    collector = Collector()
    os.chdir(ROOT)
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *plays], plugins=[collector])
    return [_verdict(attack, collector) for attack in attacks]


def _verdict(attack: Attack, collector: Collector) -> Row:
    ended = {play: collector.outcomes.get(play, ["missing"]) for play in attack.plays}
    bad = [play for play, outcomes in ended.items() if "failed" in outcomes]
    skipped = [play for play, outcomes in ended.items() if {"skipped", "missing"} & set(outcomes)]
    word: Word = "blocked" if attack.answer == "prevented" else "caught"
    if bad or skipped:
        word = "missed" if bad else "not played"
    cases = sum(map(len, ended.values()))
    note = "; ".join(bad or skipped) or f"{len(attack.plays)} tests, {cases} cases"
    return Row(
        attack.row, attack.name, attack.seen, word, note, sum(collector.seconds.get(play, 0.0) for play in attack.plays)
    )


def settings(domain: str, seeds: int, disguise: bool) -> Any:
    """The quickstart's scoring of one domain, with fewer seeds before the audit and patience for a busy machine."""
    return load_config(
        preset="quickstart",
        overrides=(
            f"task.domains=[{domain}]",
            f"scoring.board_seeds={seeds}",
            f"scoring.disguise={str(disguise).lower()}",
            "scoring.reply_seconds=0",
            "runs.seed_seconds=240",
            "runs.pretrain_seconds=3600",
        ),
    )


async def play_domain(stage: Stage, domain: str, controls: Sequence[str]) -> list[Row]:
    """Score or audit the planted cheats of a domain, then audit the controls."""
    try:
        await stage.open({})
        domain_evaluator, disguised = stage.evaluator._primary, stage.config.scoring.disguise
        await domain_evaluator.shared.features()
        truth = truth_of(domain_evaluator._t.splits, load_file(domain_evaluator.shared.features_file)["hidden"])
        turns = asyncio.Semaphore(len(stage.slots))
        work = [
            _disguised(stage, turns, domain, cheat, cheat.build(truth))
            if disguised
            else _audit(stage, turns, domain, cheat.name, cheat.build(truth), cheat)
            for cheat in planted(domain, shipped=disguised)
        ]
        work += [_audit(stage, turns, domain, name, path_of(name).read_text(), None) for name in controls]
        return await asyncio.gather(*work)
    finally:
        await stage.close()


async def _disguised(stage: Stage, turns: asyncio.Semaphore, domain: str, cheat: Cheat, source: str) -> Row:
    """Score a cheat as shipped, against the honest method that is left of it."""
    async with turns:
        start = time.monotonic()
        runs = []
        for name, text in ((cheat.name, source), (cheat.honest, path_of(cheat.honest).read_text())):
            record = await stage.evaluator.score("", stage.snapshot(text), name, "board", domain)
            runs.append(stage.evaluator._primary.counted.found(record["code_hash"], "board"))
    own, honest = runs
    assert own is not None, "a scored method has a run"
    assert honest is not None, "a scored method has a run"
    found = compare(own.hits, honest.hits, stage.evaluator._primary.known_bench("board").groups)
    word: Word = "blocked" if found.p >= BY_CHANCE or found.difference < MATTERS else "missed"
    failed = f", {len(own.failures)} of {len(own.hits)} seeds failed" if own.failures else ""
    note = f"accuracy {own.mean:.3f}, {cheat.honest} {honest.mean:.3f}{failed}"
    row = Row(domain, cheat.name, "planted, as shipped", word, note, time.monotonic() - start)
    print(_line(row), flush=True)
    return row


async def _audit(
    stage: Stage, turns: asyncio.Semaphore, domain: str, name: str, source: str, cheat: Cheat | None
) -> Row:
    """Audit a cheat or a control in full."""
    async with turns:
        start = time.monotonic()
        report = await stage.evaluator.audit(stage.snapshot(source), name, domain)
    seconds = time.monotonic() - start
    failed, tagged = ([v["audit"] for v in report["verdicts"] if v["outcome"] == o] for o in ("fail", "tag"))
    words: dict[str, Word] = {"fail": "accused", "tag": "tagged", "open": "open", "pass": "clean"}
    word: Word = words[report["outcome"]]
    if cheat is not None:
        word = "caught" if report["outcome"] == "fail" else "tagged" if report["outcome"] == cheat.alone else "missed"
    note = ", ".join(failed or tagged) or report["outcome"]
    row = Row(domain, name, CONTROL if cheat is None else "planted, audits alone", word, note, seconds)
    print(_line(row), flush=True)
    return row


def _line(row: Row) -> str:
    what = f"{row.number:>5}  {row.name[:58]:58}  {row.seen[:28]:28}"
    return f"{what}  {row.word:10}  {row.seconds:7.1f} s  {row.note[:110]}"


def table(rows: Sequence[Row]) -> str:
    """The whole table and its sums."""
    attacks = [row for row in rows if row.seen != CONTROL]
    controls = [row for row in rows if row.seen == CONTROL]
    count = Counter(row.word for row in rows)
    tagged = Counter(row.seen == CONTROL for row in rows if row.word == "tagged")
    variants = Counter(f"{row.seen} on {row.number}" for row in attacks if row.seen.startswith("planted"))
    sums = [
        "planted variants tried: " + (", ".join(f"{where} {n}" for where, n in variants.items()) or "none"),
        f"attacks tried {len(attacks)}: blocked {count['blocked']}, caught {count['caught']}, tagged {tagged[False]}, "
        f"missed {count['missed']}" + (f", not played {count['not played']}" if count["not played"] else ""),
        f"controls {len(controls)}: clean {count['clean']}, tagged {tagged[True]}, "
        f"without a result {count['open']}, wrongly accused {count['accused']}",
    ]
    return "\n".join([*map(_line, rows), "", *sums])


def chosen(controls: str) -> tuple[str, ...]:
    """The controls that an option stands for: `all`, `sample`, `none`, or names."""
    known = {"all": names(), "sample": SAMPLE, "none": ()}
    return known[controls] if controls in known else tuple(controls.split(","))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", default=",".join(DOMAIN_NAMES), help="where cheats and controls are audited")
    parser.add_argument("--controls", default="all", help="all, sample, none, or names of methods with commas between")
    parser.add_argument("--rows", help="rows of the catalogue with commas between; none: all")
    parser.add_argument("--attacks-only", action="store_true", help="the catalogue alone, no audits")
    parser.add_argument("--audits-only", action="store_true", help="cheats and controls alone")
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1, help="leases at the same time")
    parser.add_argument("--seeds", type=int, default=3, help="counted runs of a method before its audit")
    parser.add_argument("--runs-dir", type=Path, help="keep the evaluators' state here and go on from it")
    args = parser.parse_args(argv)
    wanted = None if args.rows is None else set(args.rows.split(","))
    attacks = [attack for attack in ATTACKS if wanted is None or attack.row in wanted]
    rows: list[Row] = [] if args.audits_only else play_catalogue(attacks)
    with tempfile.TemporaryDirectory(prefix="aar-redteam-") as scratch:
        for domain in () if args.attacks_only else args.domains.split(","):
            for disguise, controls in ((True, chosen(args.controls)), (False, ())):
                run = (args.runs_dir or Path(scratch)) / f"redteam-{domain}-{'shipped' if disguise else 'plain'}"
                config = settings(domain, args.seeds, disguise)
                stage = Stage(run, config, lambda name: get_domain(name, "quick", 0), args.slots)
                rows += asyncio.run(play_domain(stage, domain, controls))
    print(table(rows))
    if any(row.word in BAD for row in rows):
        return 1
    return 3 if any(row.word in ("not played", "open") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(run_script(main))
