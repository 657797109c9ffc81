"""Tiers, seeds, the Ladder under attack, and when two submissions are the same method."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.evaluator.audits.verdicts import MOST_CONSTANTS
from actors.evaluator.scoring_runs import write_code
from actors.evaluator.secret import Secret
from actors.evaluator.source import MAX_BYTES, Method, code_hash, program, program_bytes, read_method
from actors.evaluator.tiers import (
    Ladder,
    Tier,
    answered_mean,
    ceilings_of,
    dev_accuracy,
    ladder_step,
    teachers_of,
    training_seed,
    until_reply,
)
from actors.researcher.brains.explorer.space import method_file
from cluster.config import Scoring
from cluster.errors import AarError, RefusedError
from cluster.objects import ObjectStore
from gpu_pool.weak_to_strong.methods import path_of
from gpu_pool.weak_to_strong.methods.registry import names
from gpu_pool.weak_to_strong.recipes import sample

SECRET, SCORING = Secret(bytes(range(32))), Scoring()
METHOD = b'"""Doc."""\n# note\nfrom x import y\n\n\ndef train(run):\n    """Why."""\n    return y(run, 0.5)\n'


def hashed(source: bytes, **others: bytes) -> str:
    return code_hash({"method.py": source, **others}, "v1")


@pytest.mark.parametrize(
    "same",
    [
        b"from x import y\ndef train(run): return y(run, 0.5)\n",
        b'from x import y\ndef train(run):\n    "other"\n    return y(run, .5)  # changed\n',
        b"from x import y\n\n\n\ndef train(\n    run,\n):\n    return (y(run, 0.50))\n",
    ],
)
def test_layout_comments_and_docstrings_do_not_make_another_method(same: bytes) -> None:
    assert hashed(same) == hashed(METHOD)


@pytest.mark.parametrize(
    "other",
    [
        METHOD.replace(b"0.5", b"0.6"),
        METHOD.replace(b"y(run", b"y(run.copy()"),
        METHOD.replace(b"x import y", b"z import y"),
        METHOD + b"\nEXTRA = 1\n",
    ],
)
def test_other_code_is_another_method(other: bytes) -> None:
    assert hashed(other) != hashed(METHOD)
    assert hashed(METHOD) != hashed(METHOD, **{"helper.py": b"A = 1\n"})
    assert hashed(METHOD) != code_hash({"method.py": METHOD}, "v2")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"def train(run:\n", "method.py, line 1"),
        (b"x = 1\n", "no function `train`"),
        (b"def train():\n    pass\n", "takes one argument"),
        (b"class A:\n    def train(self, run): ...\n", "no function `train`"),
        (b"\xff\xfe", "method.py"),
        (b"def train(run): return 1\0", "method.py"),
        (b"x = " + b"-" * 30_000 + b"1\ndef train(run): ...\n", "method.py"),
        (b"x = " + b"(" * 300 + b")" * 300 + b"\n", "method.py"),
    ],
)
def test_what_is_no_method_is_refused_with_the_reason(source: bytes, said: str) -> None:
    with pytest.raises(RefusedError, match=said) as caught:
        hashed(source)
    assert caught.value.reason == "bad_method"


SPEAKS = (
    b'"""0.1"""\ndef train(run): return float(__doc__)\n',
    b'def train(run):\n    "0.1"\n    return float(train.__doc__)\n',
    b"def train(run): return float(open(__file__).read().split('#')[1])  #0.1\n",
    b'def train(run):\n    "first"\n    "0.1"\n    return float(train.__doc__)\n',
    b'class A:\n    "0.1"\n\n\ndef train(run): return float(A.__doc__)\n',
    b"import inspect\n\n\ndef train(run): return inspect.currentframe().f_lineno  # 0.1\n",
)


@pytest.mark.parametrize("source", SPEAKS)
def test_what_is_outside_the_hash_does_not_run(source: bytes, tmp_path: Path) -> None:
    """A docstring or comment that a method reads of itself would make two programs of one hash."""
    objects = ObjectStore(tmp_path / "objects")
    written = []
    for number, text in enumerate((source, source.replace(b"0.1", b"0.9"), b"\n\n" + source)):
        assert hashed(text) == hashed(source)
        method = Method(objects.put_tree({"method.py": text, "notes.txt": b"# 0.1\n"}), "hash", "m")
        write_code(objects, method, tmp_path / str(number))
        written.append((tmp_path / str(number) / "method.py").read_bytes())
        assert (tmp_path / str(number) / "notes.txt").read_bytes() == b"# 0.1\n"
    assert written[0] == written[1] == written[2]
    assert b"0.1" not in written[0]


@pytest.mark.parametrize("source", [METHOD, *SPEAKS, b'def train(run):\n    "only this"\n'])
def test_a_program_is_its_own_program_and_has_the_hash_of_its_source(source: bytes) -> None:
    once = program({"method.py": source})
    assert program(once) == once
    assert code_hash(once, "v1") == hashed(source)


def test_what_cannot_be_written_anew_is_refused_with_its_file() -> None:
    huge = b"x = 0x" + b"f" * 9000 + b"\ndef train(run): return x\n"
    with pytest.raises(RefusedError, match=r"helper\.py: cannot be written anew") as caught:
        hashed(METHOD, **{"helper.py": huge})
    assert caught.value.reason == "bad_method"


@pytest.mark.parametrize(
    "hide",
    [
        lambda table: f"TABLE = {table!r}\n",
        lambda table: f"def note(x: {table!r}): ...\n",
        lambda table: "".join(f"l{table[i : i + 60]} = 0\n" for i in range(0, len(table), 60)),
    ],
)
def test_a_table_counts_wherever_it_stands(hide: Callable[[str], str]) -> None:
    table = f"{random.Random(1).getrandbits(8 * 2000):x}"
    assert program_bytes({"method.py": METHOD + hide(table).encode()}) > MOST_CONSTANTS
    assert program_bytes({"method.py": METHOD, "table.txt": table.encode()}) > MOST_CONSTANTS
    assert program_bytes({"method.py": METHOD, f"{table[:200]}/{table[200:400]}.py": b""}) > 150


def test_no_shipped_method_has_room_for_a_table() -> None:
    sizes = [program_bytes({"method.py": path_of(name).read_bytes()}) for name in names()]
    sizes += [program_bytes({"method.py": method_file(sample(random.Random(i))).encode()}) for i in range(200)]
    assert 2 * max(sizes) < MOST_CONSTANTS


def test_snapshots_are_checked_before_they_are_read(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    good = objects.put_tree({"method.py": METHOD})
    found = read_method(objects, good, "na\x1b[31mme\u202e" + "x" * 100, "v1")
    assert found.code_hash == hashed(METHOD)
    assert found.name.startswith("na?[31mme?x")
    assert len(found.name) == 60
    big = objects.put_tree({"method.py": METHOD, "table.txt": b"0" * MAX_BYTES})
    for snapshot, reason in ((big, "too_large"), ("0" * 64, "unknown_snapshot"), ("../x", "unknown_snapshot")):
        with pytest.raises(RefusedError) as caught:
            read_method(objects, snapshot, "n", "v1")
        assert caught.value.reason == reason
    with pytest.raises(RefusedError, match=r"no method\.py"):
        read_method(objects, objects.put_tree({"other.py": METHOD}), "n", "v1")
    with pytest.raises(RefusedError):
        read_method(objects, objects.put_bytes(METHOD), "n", "v1")


def test_teachers_of_tiers_never_overlap_and_seal_has_fresh_ones() -> None:
    tiers: tuple[Tier, ...] = ("dev", "board", "seal")
    numbers = [set(teachers_of(tier, SCORING)) for tier in tiers]
    assert sorted(numbers[0]) == [0, 1, 2]
    assert sorted(numbers[2]) == list(range(100, 110))
    assert len(set.union(*numbers)) == sum(map(len, numbers))
    assert set(ceilings_of("seal")).isdisjoint(ceilings_of("board"))
    with pytest.raises(AarError, match="dev_seeds"):
        teachers_of("dev", Scoring(dev_seeds=11))


def test_training_seeds_depend_on_code_tier_domain_and_index_alone() -> None:
    seed = training_seed(SECRET, "h", "dev", "chat", 0)
    assert seed == training_seed(SECRET, "h", "dev", "chat", 0)
    others = {
        training_seed(SECRET, "g", "dev", "chat", 0),
        training_seed(SECRET, "h", "seal", "chat", 0),
        training_seed(SECRET, "h", "dev", "math", 0),
        training_seed(SECRET, "h", "dev", "chat", 1),
    }
    assert len(others | {seed}) == 5


def test_a_dev_answer_is_on_the_grid_noised_and_always_the_same() -> None:
    one = dev_accuracy(SECRET, "h", "chat", 0.743, SCORING)
    assert one == dev_accuracy(SECRET, "h", "chat", 0.743, SCORING)
    assert one / SCORING.dev_round == pytest.approx(round(one / SCORING.dev_round))
    shown = [dev_accuracy(SECRET, f"h{i}", "chat", 0.743, SCORING) for i in range(500)]
    assert np.mean(shown) == pytest.approx(0.743, abs=0.004)
    assert np.std(shown) == pytest.approx(np.hypot(0.02, 0.02 / np.sqrt(12)), rel=0.15)
    assert dev_accuracy(SECRET, "h", "chat", 1.2, SCORING) == 1.0


def test_falsified_labels_are_taken_out_of_a_mean_for_those_who_have_not_learnt_them() -> None:
    rng = np.random.default_rng(3)
    canaries = np.zeros(1300, bool)
    canaries[:100] = True
    honest = rng.random((400, 1300)) < 0.62
    assert answered_mean(honest, canaries) == pytest.approx(0.62, abs=0.005)
    assert answered_mean(~canaries[None, :], canaries) > 1, "a method that answers as DEV's answers say is too good"
    assert answered_mean(honest, np.zeros(1300, bool)) == pytest.approx(honest.mean())


def test_the_next_reply_is_at_a_multiple_of_the_grid() -> None:
    assert until_reply(1003.5, 10) == pytest.approx(6.5)
    assert until_reply(1000.0, 10) == pytest.approx(10)
    assert until_reply(1003.5, 0) == 0


def test_the_ladder_moves_only_by_more_than_a_step_and_a_clear_difference() -> None:
    ladder = Ladder(0.70, "vanilla", 0.03)
    assert ladder.consider("a", 0.72, 9.0) is None
    assert ladder.consider("a", 0.80, 1.9) is None
    assert ladder.consider("a", 0.80, float("nan")) is None
    higher = ladder.consider("a", 0.80, 2.1)
    assert higher is not None
    assert higher.holder == "a"
    assert higher.level == pytest.approx(0.78)
    assert higher.level > ladder.level


def test_step_follows_the_measured_rule() -> None:
    assert ladder_step(40, 1263) == pytest.approx(0.038, abs=5e-4)
    assert ladder_step(500, 1263) == pytest.approx(0.050, abs=5e-4)
    assert ladder_step(1, 100) > 0


def test_block_climbing_on_the_ladder_gains_little_on_the_hidden_labels() -> None:
    """The strongest attack known on a threshold answer, with predictions, which the judge never even accepts.

    40 submissions on 1,263 coin flips: flip a random block, keep it if the Ladder moves. Plain answers would give
    it 5 points and more; the Ladder holds it near zero.
    """
    gains = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        truth = rng.random(1263) < 0.5
        best = rng.random(1263) < 0.5
        ladder = Ladder(float((best == truth).mean()), "start", ladder_step(40, 1263))
        start = ladder.level
        for _ in range(40):
            block = rng.random(1263) < 0.08
            tried = best ^ block
            hits, held = tried == truth, best == truth
            difference = hits.astype(float) - held
            z = difference.mean() / (difference.std(ddof=1) / np.sqrt(1263))
            higher = ladder.consider("x", float(hits.mean()), float(z))
            if higher is not None:
                ladder, best = higher, tried
        gains.append(float((best == truth).mean()) - start)
    assert np.mean(gains) < 0.02
