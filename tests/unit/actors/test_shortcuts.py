"""Counted pools of tasks from files: whoever only counts gains nothing, and where that cannot be, it is said."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.evaluator.file_splits import Pool
from actors.evaluator.pools import FilePools, PoolReport, file_pools
from actors.evaluator.secret import Secret
from actors.evaluator.shortcuts import Shortcut, balance
from actors.evaluator.shortcuts.balance import MOST
from actors.evaluator.shortcuts.probe import FOLDS, ask
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.tasks import load_task
from tests.unit.actors.shortcut_tasks import (
    COUNTS,
    Works,
    accuracy,
    best_cut,
    step_vote,
    vote,
    worked_sums,
)
from tests.unit.actors.task_files import made_up, write_rows

SECRET = Secret(bytes(range(32)))


def made(works: Works, folder: Path, cuts: tuple[int, int], policy: Any = "balance") -> FilePools:
    """Pools of a task whose splits are the works before, between and after `cuts`."""
    parts = {"train_label": slice(0, cuts[0]), "train_unlabel": slice(*cuts), "test": slice(cuts[1], None)}
    path = write_rows(folder, {split: works.rows(some) for split, some in parts.items()})
    return file_pools(load_task(str(path)), SECRET, "sums", policy)


def training(pools: dict[str, Pool]) -> tuple[ItemSet, Any]:
    """What counted runs train on."""
    a, b = pools["pool_a"], pools["pool_b"]
    return a.items.concat(b.items), np.concatenate([a.labels, b.labels])


def chance(n: int) -> float:
    """What luck may add to a half: the limit, and three standard errors."""
    return float(0.5 + MOST + 1.5 / np.sqrt(n))


@pytest.fixture(scope="module")
def doubtful() -> Works:
    return worked_sums(9000, seed=4, doubt=0.3)


def test_who_counts_steps_lines_or_words_is_at_chance_on_the_pool_that_is_trained_on(
    doubtful: Works, tmp_path: Path
) -> None:
    found = made(doubtful, tmp_path, (400, 8500))
    items, labels = training(found.pools)
    raw = doubtful.items.take(np.arange(0, 8500, 5))
    assert accuracy(step_vote(raw), doubtful.labels[:8500:5]) > 0.65, "the attack works on the pool as it was"
    assert accuracy(step_vote(items), labels) < chance(len(items))
    for name, figure in COUNTS.items():
        assert best_cut(figure(items), labels) < chance(len(items)) + 0.02, name  # truth chose among 38 cuts
    assert found.report.before.found
    assert found.report.after.gain <= MOST
    assert len(items) > 500, "four in ten contradict the steps and as many that do not stay"
    assert not found.report.open


def test_one_telling_figure_is_found_among_many_that_tell_nothing_in_few_items() -> None:
    gains, right = [], 0.62
    for seed in range(12):
        rng, n = np.random.default_rng(seed), 450
        labels = rng.integers(0, 2, n).astype(np.int8)
        steps = rng.choice([-1.0, 1.0], (n, 400)).astype(np.float32)
        steps[:, 7] = np.where(rng.random(n) < right, 2 * labels - 1, 1 - 2 * labels)
        found = ask(steps, labels, rng.integers(0, FOLDS, n), np.ones(n, dtype=np.bool_), odd=False)
        gains.append(found.gain)
    assert np.mean(gains) > 0.55 * (right - 0.5)


def test_of_a_question_there_is_one_item_so_that_nothing_is_voted_on(doubtful: Works, tmp_path: Path) -> None:
    found = made(doubtful, tmp_path, (400, 8500))
    assert found.report.choice == "one"
    for pool in ("pool_a", "pool_b"):
        groups = found.pools[pool].groups
        assert len(np.unique(groups)) == len(groups)
        assert len(set(found.pools[pool].items.prompts)) == len(groups)
    assert not set(found.pools["pool_a"].items.prompts) & set(found.pools["pool_b"].items.prompts)


def test_where_too_few_questions_are_left_a_right_and_a_wrong_item_outvote_nobody(tmp_path: Path) -> None:
    works = worked_sums(1200, seed=5)
    found = made(works, tmp_path, (200, 1000))
    assert found.report.choice == "matched"
    items, labels = training(found.pools)
    groups = np.concatenate([found.pools["pool_a"].groups, 1000 + found.pools["pool_b"].groups])
    assert all(sorted(labels[groups == group].tolist()) == [0, 1] for group in np.unique(groups))
    assert accuracy(vote(works.items, works.problems), works.labels) > 0.7
    assert abs(accuracy(vote(items, groups), labels) - 0.5) < 0.03


def test_statistics_that_are_the_truth_leave_the_pool_whole_and_every_record_says_so(tmp_path: Path) -> None:
    found = made(worked_sums(6000, seed=6), tmp_path, (400, 5500))
    assert found.report.open
    assert found.report.after == found.report.before
    assert found.report.after.gain > 0.4
    assert "does not cover shortcuts: the pool's own statistics give .4" in found.report.line("sums")


def test_who_wants_the_published_pool_has_all_of_it_and_records_say_what_that_means(
    doubtful: Works, tmp_path: Path
) -> None:
    found = made(doubtful, tmp_path, (400, 4400), "keep")
    assert found.report.items == found.report.carved == len(training(found.pools)[0])
    assert "does not cover shortcuts: the pool was kept" in found.report.caveat
    assert not found.report.open, "a person chose it"


def test_a_pool_without_a_shortcut_keeps_nearly_all_items(tmp_path: Path) -> None:
    rows = {name: made_up(count, name) for name, count in (("train_label", 50), ("train_unlabel", 1200), ("test", 60))}
    report = file_pools(load_task(str(write_rows(tmp_path, rows))), SECRET, "lab").report
    assert report.items > 0.8 * report.carved
    assert not report.open


@pytest.mark.parametrize("shortcut", ["longer", "usual word", "copied"])
def test_of_two_answers_the_better_one_is_not_told_by_what_can_be_counted(shortcut: str) -> None:
    rng, n = np.random.default_rng(8), 1600
    labels = rng.integers(0, 2, n).astype(np.int8)
    words = np.array([f"word{i}" for i in range(400)])

    def answer(marked: bool, twin: str) -> str:
        text = " ".join(rng.choice(words, 12 + 2 * (shortcut == "longer" and marked)))
        text += " indeed" if shortcut == "usual word" and marked else f" rare{rng.integers(10**6)}"
        return f"{twin} {text[:20]}" if shortcut == "copied" and marked else text

    marked = np.where(rng.random(n) < 0.75, labels, 1 - labels)  # which of the two carries the sign
    prompts = tuple(" ".join(rng.choice(words, 8)) for _ in range(n))
    firsts = tuple(answer(side == 0, prompt) for side, prompt in zip(marked, prompts, strict=True))
    seconds = tuple(answer(side == 1, prompt) for side, prompt in zip(marked, prompts, strict=True))
    items = ItemSet("pair", tuple(map(str, range(n))), prompts, firsts, seconds)
    found = balance(items, labels, np.random.default_rng(0))
    assert found.before.gain > 0.2
    assert found.after.gain <= MOST
    assert abs(np.mean(marked[found.rows] == labels[found.rows]) - 0.5) < 0.06
    assert len(found.rows) > 0.3 * n


def test_the_same_secret_chooses_the_same_items(doubtful: Works) -> None:
    some = np.arange(0, 5000, 5)
    items, labels = doubtful.items.take(some), doubtful.labels[some]
    one, again, other = (balance(items, labels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.rows, again.rows)
    assert not np.array_equal(one.rows, other.rows)


def test_which_item_stays_is_not_told_by_its_class(doubtful: Works) -> None:
    some = np.arange(0, 9000, 5)
    found = balance(doubtful.items.take(some), doubtful.labels[some], np.random.default_rng(1))
    assert abs(doubtful.labels[some][found.rows].mean() - doubtful.labels[some].mean()) < 0.06


def test_labels_of_chance_have_no_shortcut() -> None:
    works = worked_sums(6000, seed=9)
    some = np.arange(0, 6000, 5)
    gains = []
    for seed in range(3):
        coins = np.random.default_rng(seed).integers(0, 2, len(some)).astype(np.int8)
        gains.append(balance(works.items.take(some), coins, np.random.default_rng(seed)).before)
    assert not any(gain.found for gain in gains)
    assert abs(np.mean([gain.gain for gain in gains])) < 0.03


@pytest.mark.parametrize("text", ["", " \n ", "one", "=\n==\n:", "a\u2028b\x0c", "\ud83d", "9" * 3000])
def test_texts_of_any_shape_are_counted(text: str) -> None:
    n = 300
    items = ItemSet("binary", tuple(map(str, range(n))), (text,) * n, (text,) * n, ("",) * n)
    labels = np.tile(np.array([0, 1], np.int8), n // 2)
    found = balance(items, labels, np.random.default_rng(0))
    assert len(found.rows) == n
    assert not found.before.found


def test_long_items_take_milliseconds_each() -> None:
    rng, n = np.random.default_rng(3), 1500
    words = np.array([f"w{i}" for i in rng.zipf(1.3, 4000) % 30_000])
    texts = [" ".join(words[rng.integers(0, len(words), 330)]) for _ in range(n)]
    items = ItemSet("binary", tuple(map(str, range(n))), tuple(text[:200] for text in texts), tuple(texts), ("",) * n)
    start = time.process_time()
    balance(items, rng.integers(0, 2, n).astype(np.int8), rng)
    assert time.process_time() - start < 0.01 * n


def test_the_report_reads_like_a_sentence() -> None:
    report = PoolReport("balance", "one", 4226, 3100, Shortcut(0.07, 0.01), Shortcut(0.01, 0.01))
    assert report.line("chat") == "pools of chat: one item a question, shortcut .07 -> .01, 4,226 -> 3,100 items"
    left = replace(report, items=4226, after=report.before, before=report.before)
    assert left.line("chat").endswith("items; a claim does not cover shortcuts: " + left.caveat.partition(": ")[2])
