"""Copies: what is one method, by its text and by what its students say, and what a copy gets."""

from __future__ import annotations

import ast
import itertools
from dataclasses import replace

import numpy as np
import pytest

from actors.evaluator.entrants import same as same_run
from actors.evaluator.result_store import ScoredRun, Usage
from actors.evaluator.source import code_hash, entrant
from gpu_pool.weak_to_strong.methods import registry

CONFIDENT = registry.source_of("confident")
LONG = """
import torch.nn.functional as F
import numpy as np
from gpu_pool.weak_to_strong import blocks

SHARE = 0.5


class Scale:
    width: int = 2

    def times(self, x):
        y = x * self.width
        return y


def helper(x, k):
    y = np.abs(x) + k
    return [i for i in y if i > SHARE]


def other(z):
    return helper(z, 2) + down(z)


def down(n):
    return up(n - 1) if n else 0


def up(n):
    return down(n + 1)


def train(run):
    a = other(run.weak)
    import math
    try:
        b = F.relu(a)
    except ValueError as error:
        raise RuntimeError(str(error))
    model = run.fit(a, lr=1e-3, epochs=2)
    return run.student(model, b, math.pi, lambda t: t + 1, Scale().times(a))
"""
REWRITTEN = '''
"""Another text."""
import math as m, torch, random
import numpy


def train(job):
    q: list = second(job.weak)
    unread = [1, 2, q]
    if False:
        job.fit(q)
    try:
        w = torch.nn.functional.relu(q)
    except ValueError as e2:
        raise RuntimeError(str(e2))
    mod = job.fit(q, epochs=1 + 1, lr=0.001)
    for _ in range(0):
        mod = None
    print("copy", 7)
    job.log(copy=7)
    return job.student(mod, w, m.pi, lambda u: u + 1, Wide().times(q))
    return None


def two(m): return one(m + 1)


def second(w):
    return first(w, 2) + one(w)


def one(m):
    17
    return two(m - 1) if m else 0


def first(ee, kk):
    yy = numpy.abs(ee) + kk
    return [jj for jj in yy if jj > 1 / 2]


class Wide:
    "A class."
    width: int = 2

    def times(self, xx):
        return_ = xx * self.width
        return return_


def never(x): return x ** 2


UNREAD = 12345
'''


def same(one: str, other: str) -> bool:
    return entrant({"method.py": one.encode()}, "v") == entrant({"method.py": other.encode()}, "v")


def inside(line: str) -> str:
    """`confident` with one more statement at the beginning of `train`."""
    return CONFIDENT.replace("    keep = ", f"    {line}\n    keep = ")


@pytest.mark.parametrize(
    "copy",
    [
        CONFIDENT + "\n42\n",
        CONFIDENT + "\nSALT = 17\n",
        CONFIDENT + "\n\ndef unused(a):\n    return a * 3\n",
        CONFIDENT + "    return 5\n",
        CONFIDENT.replace("from gpu_pool", "import random, math\nfrom gpu_pool"),
        CONFIDENT.replace("run", "job"),
        CONFIDENT.replace("SHARE = 0.5", "SHARE = 1 / 2"),
        CONFIDENT.replace("share=SHARE", "share=5e-1"),
        CONFIDENT.replace("model", "student_model").replace("keep", "kept"),
        inside("salt = 5"),
        inside("7"),
        inside("None; run.seed; (1, 2, run.seed + 1)"),
        inside("pass"),
        inside("assert True"),
        inside("salt = 1; salt += 1; other = salt"),
        inside("def inner(): return 3"),
        inside("for _ in range(0): run.fit(run.weak)"),
        inside("while 1 > 2: run.fit(run.weak)"),
        inside("if not 1: run.fit(run.weak)"),
        inside("run.log(copy=3)"),
        inside("import random as keep_out"),
        inside("for i in range(3): pass"),
        inside("try: pass\n    except ValueError: return None"),
    ],
)
def test_what_makes_no_difference_makes_no_entrant(copy: str) -> None:
    ast.parse(copy)
    assert copy != CONFIDENT
    assert same(copy, CONFIDENT)


def test_names_order_imports_and_helpers_make_no_entrant() -> None:
    assert same(LONG, REWRITTEN)
    beside = {"helper.py": b"def f(run):\n    return run.fit(1)\n"}
    by_name = {"method.py": b"from helper import f\ndef train(run):\n    return f(run)\n", **beside}
    by_module = {"method.py": b"import helper as h\ndef train(r):\n    return h.f(r)\n", **beside}
    alone = {"method.py": b"def g(r):\n    return r.fit(1)\ndef train(run):\n    return g(run)\n"}
    unread = {**by_name, "notes.txt": b"1", "unused.py": b"x = 1\n"}
    assert len({entrant(files, "v") for files in (by_name, by_module, alone, unread)}) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SHARE = 0.5", "SHARE = 0.6"),
        ("+ k\n", "+ 2 * k\n"),
        ("helper(z, 2)", "helper(2, z)"),
        ("np.abs", "np.exp"),
        ("n - 1", "n - 2"),
        ("n + 1", "n + 2"),
        ("lambda t: t + 1", "lambda t: a + 1"),
        ("width: int = 2", "width: int = 3"),
        ("x * self.width", "x / self.width"),
        ("lr=1e-3", "lr=2e-3"),
        ("i > SHARE", "i >= SHARE"),
        ("ValueError", "TypeError"),
        ("F.relu", "F.gelu"),
        ("    import math\n", "    import math\n    weak = run.weak\n    weak *= 2\n"),
        ("    import math\n", "    import math\n    for _ in range(3, 0, -1): run.fit(a)\n"),
        ("    import math\n", "    import math\n    if run.seed: run.fit(a)\n"),
        ("    import math\n", "    import math\n    run.weak[0] = 1\n"),
        ("    import math\n", "    import math\n    np.random.rand()\n"),
    ],
)
def test_what_runs_otherwise_is_another_entrant(old: str, new: str) -> None:
    assert LONG.count(old) >= 1
    assert not same(LONG, LONG.replace(old, new, 1))


def test_files_and_names_that_are_read_while_running_count() -> None:
    def read(**files: str) -> str:
        return entrant({name.replace("_", "."): text.encode() for name, text in files.items()}, "v")

    table = "def train(run):\n    return open('table.txt').read()\n"
    assert read(method_py=table, table_txt="1") != read(method_py=table, table_txt="2")
    patched = "import patch\ndef train(run):\n    return run.fit(1)\n"
    first, second = (read(method_py=patched, patch_py=f"import m\nm.f({n})\n") for n in (1, 2))
    assert first != second
    by_name = "def train(run):\n    {} = 1\n    return sorted(locals())\n"
    assert not same(by_name.format("a"), by_name.format("b"))


def test_all_shipped_methods_are_entrants_of_their_own() -> None:
    texts = [registry.source_of(name) for name in registry.names()]
    assert len({entrant({"method.py": text.encode()}, "v") for text in texts}) == len(texts) == 38


def test_a_tree_that_is_too_deep_to_compare_counts_as_it_stands() -> None:
    chain = "\n".join(f"def f{i}(x): return f{i + 1}(x)" for i in range(1500))
    text = f"{chain}\ndef f1500(x): return x\ndef train(run): return f0(run)\n"
    assert same(text, text + "\n")
    assert not same(text, text.replace("return x\n", "return -x\n"))


def test_the_code_hash_still_goes_by_what_runs() -> None:
    salted = CONFIDENT + "\nSALT = 17\n"
    assert code_hash({"method.py": salted.encode()}, "v") != code_hash({"method.py": CONFIDENT.encode()}, "v")


Says = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def says(seed: int) -> Says:
    """P(label 1) of 2,000 items by five students."""
    return np.random.default_rng(seed).random((5, 2000)).astype(np.float32)


def scored(said: Says, *failed: int) -> ScoredRun:
    return ScoredRun(said > 0.4, dict.fromkeys(failed, "crash"), Usage((), 0, "A", ""), said)


def test_copies_say_the_same_at_most_seeds() -> None:
    said = says(0)
    run = scored(said)
    assert same_run(run, scored(said + 1e-5))
    assert same_run(run, scored((said - 0.4) * 0.9 + 0.4)), "a scale changes what is said and no answer"
    assert not same_run(run, scored(said + 0.01))
    assert not any(same_run(scored(says(a)), scored(says(b))) for a, b in itertools.combinations(range(4), 2))
    gated = said.copy()
    gated[:2] = 1 - gated[:2]
    assert same_run(run, scored(gated)), "another method on two of five seeds"
    gated[2] = 1 - gated[2]
    assert not same_run(run, scored(gated)), "on three of five"


def test_what_is_not_known_of_most_seeds_is_not_the_same() -> None:
    run = scored(says(0))
    assert same_run(scored(says(0), 0), scored(says(0), 1)), "a seed that fails says nothing"
    assert not same_run(scored(says(0), 0, 1, 2), run)
    assert not same_run(scored(says(0)[:3]), run)
    assert not same_run(replace(run, says=None), run)
    few = says(0)[:, :40]
    assert not same_run(scored(few), scored((few - 0.4) * 0.9 + 0.4)), "the same answers to a few items are no sign"
