"""The red team: every known attack against the real system, and every honest method as a control, in one table.

    python scripts/redteam.py                                  # everything: hours on two cores
    python scripts/redteam.py --domains math --controls sample # minutes
    python scripts/redteam.py --attacks-only                   # the catalogue alone

Attacks of the catalogue (tests/redteam/catalogue.py) are played by pytest. Planted cheats and clean controls are
trained and audited in full on the shipped worlds by the real evaluator, slots and sandboxes, without Ray. What was
audited stands in `--runs-dir` and is not audited again when the battery goes on there after an interruption.

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

import pytest
from safetensors.numpy import load_file

from cluster.config import load_config
from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, get_domain
from gpu_pool.weak_to_strong.methods import path_of
from gpu_pool.weak_to_strong.methods.registry import names
from tests.redteam.catalogue import ATTACKS, Attack
from tests.redteam.cheats import sources, truth_of
from tests.redteam.stage import Stage

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ("vanilla", "soft", "em_posterior", "ue_zeroshot", "ccs", "bootstrap")
"""Controls of a short battery: two plain ones, one that infers, one without labels, a probe, a student of students."""
Word = Literal["blocked", "caught", "missed", "not played", "clean", "tagged", "accused", "open"]
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


def settings(domain: str, seeds: int) -> Any:
    """The quickstart's scoring of one domain, with fewer seeds before the audit and patience for a busy machine."""
    return load_config(
        preset="quickstart",
        overrides=(
            f"task.domains=[{domain}]",
            f"scoring.board_seeds={seeds}",
            "scoring.reply_seconds=0",
            "runs.seed_seconds=240",
            "runs.pretrain_seconds=3600",
        ),
    )


async def audit_domain(stage: Stage, domain: str, controls: Sequence[str]) -> list[Row]:
    """Audit the planted cheats of a domain, then the controls."""
    try:
        await stage.open({})
        workshop = stage.judge._primary
        await workshop.shared.features()
        hidden = load_file(workshop.shared.features_file)["hidden"]
        planted = sources(domain, truth_of(workshop._t.vault, hidden))
        turns = asyncio.Semaphore(len(stage.slots))
        work = [_audit(stage, turns, domain, name, source, True) for name, source in planted.items()]
        work += [_audit(stage, turns, domain, name, path_of(name).read_text(), False) for name in controls]
        return await asyncio.gather(*work)
    finally:
        await stage.close()


async def _audit(stage: Stage, turns: asyncio.Semaphore, domain: str, name: str, source: str, cheat: bool) -> Row:
    async with turns:
        start = time.monotonic()
        report = await stage.judge.audit(stage.snapshot(source), name, domain)
    seconds = time.monotonic() - start
    failed, tagged = ([v["audit"] for v in report["verdicts"] if v["outcome"] == o] for o in ("fail", "tag"))
    words: dict[str, Word] = {"fail": "accused", "tag": "tagged", "open": "open", "pass": "clean"}
    word: Word = words[report["outcome"]]
    if cheat:
        word = "caught" if report["outcome"] == "fail" else "missed"
    note = ", ".join(failed or tagged) or report["outcome"]
    row = Row(domain, name, "planted" if cheat else "control", word, note, seconds)
    print(_line(row), flush=True)
    return row


def _line(row: Row) -> str:
    what = f"{row.number:>5}  {row.name[:58]:58}  {row.seen[:28]:28}"
    return f"{what}  {row.word:10}  {row.seconds:7.1f} s  {row.note[:110]}"


def table(rows: Sequence[Row]) -> str:
    """The whole table and its sums."""
    attacks = [row for row in rows if row.seen != "control"]
    controls = [row for row in rows if row.seen == "control"]
    count = Counter(row.word for row in rows)
    sums = [
        f"attacks tried {len(attacks)}: blocked {count['blocked']}, caught {count['caught']}, missed {count['missed']}"
        + (f", not played {count['not played']}" if count["not played"] else ""),
        f"controls {len(controls)}: clean {count['clean']}, tagged {count['tagged']}, "
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
            run = (args.runs_dir or Path(scratch)) / f"redteam-{domain}"
            stage = Stage(run, settings(domain, args.seeds), lambda name: get_domain(name, "quick", 0), args.slots)
            rows += asyncio.run(audit_domain(stage, domain, chosen(args.controls)))
    print(table(rows))
    if any(row.word in BAD for row in rows):
        return 1
    return 3 if any(row.word in ("not played", "open") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
