"""Text that is made to take long: every function over it is linear or bounded, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cluster.difference import matched, unified_diff
from cluster.errors import RefusedError
from forum_actor.actor import ForumActor
from forum_actor.code_store import ALIKE, MAX_METHOD_BYTES
from forum_actor.likeness import MOST_REPEATS, SIZE, likeness, sketch
from forum_actor.posts import MAX_BODY, MAX_RAW, Post, make_draft, sanitise
from forum_actor.watch import alarms
from tests.unit.forum_actor.desk import Desk

PATIENCE_S = 1.0
"""Of processor time, which a busy machine does not stretch."""
NESTED = {
    "tags": "<" * (MAX_RAW // 8) + "script>" * (MAX_RAW // 8),
    "comments": "<!-" * (MAX_RAW // 6) + "-->" * (MAX_RAW // 6),
    "open comments": "<!--" * (MAX_RAW // 4),
    "links": "[" * (MAX_RAW // 2) + "](a)" * (MAX_RAW // 8),
    "open links": "[a](" * (MAX_RAW // 4),
    "addresses": "http :" * (MAX_RAW // 6),
    "marks out of order": "a" + "\u0315" * (MAX_RAW // 2) + "\u0327" * (MAX_RAW // 2),
    "jamo": "\u1100\u1161" * (MAX_RAW // 2),
    "invisible": "\u200b" * MAX_RAW,
}


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED)
def test_nested_text_is_cleaned_in_linear_time_and_stays_clean(text: str) -> None:
    assert seconds(lambda: sanitise(text)) < PATIENCE_S
    clean = sanitise(text)
    assert sanitise(clean) == clean
    assert "<script>" not in clean
    assert "<!--" not in clean


def test_a_character_that_stands_for_eighteen_is_counted_as_eighteen() -> None:
    assert len(unicodedata.normalize("NFKC", "\ufdfa")) == 18
    assert len(sanitise("\ufdfa" * MAX_BODY)) <= MAX_RAW

    def draft() -> None:
        with pytest.raises(RefusedError, match="body has"):
            make_draft({"kind": "insight", "title": "t", "body": "\ufdfa" * MAX_RAW})

    assert seconds(draft) < PATIENCE_S / 4


@pytest.mark.parametrize(
    "body",
    [
        "a" + "\n" * (MAX_BODY - 2) + "b",
        "a" + "\n" * 1000 + "1" * 990,
        ("\n" + " " * 9) * 200 + "x",
        "new" + " " * 1990 + "x",
        "ignore all " + "w" * 1900,
        "copy " * 400,
        "<" + " " * 1990 + "x",
        "\n-" * 1000,
    ],
)
def test_the_watch_reads_a_post_of_blanks_and_half_commands_in_no_time(body: str) -> None:
    post = Post("p-000001", 1, 0, "01-a", "insight", "t", body)
    assert seconds(lambda: alarms(post, [])) < PATIENCE_S / 4


EQUAL = "0\n" * ((MAX_METHOD_BYTES - 80) // 2)
TRAIN = "def train(run):\n    return run.student(run.fit(run.weak))\n"
HOSTILE = {
    "equal lines": (EQUAL, EQUAL[:-20]),
    "two lines in turn": ("a\nb\n" * 15_000, "b\na\nc\n" * 10_000),
    "every line moved": ("\n".join(map(str, range(11_000))), "\n".join(map(str, range(11_000, 0, -1)))),
    "a few lines often": tuple("\n".join(str(i * step % 151) for i in range(15_000)) for step in (3, 7)),
}


@pytest.mark.parametrize("texts", HOSTILE.values(), ids=HOSTILE)
def test_pushes_and_diffs_of_hostile_code_take_less_than_a_second(desk: Desk, texts: tuple[str, str]) -> None:
    one, other = (f"{text}\n{TRAIN}" for text in texts)
    first = desk.code.push("1", "01-a", {"method.py": one}, None, "")
    assert seconds(lambda: desk.code.push("2", "01-a", {"method.py": other}, None, "")) < PATIENCE_S
    second = desk.code.push("2", "01-a", {"method.py": other}, None, "")
    assert seconds(lambda: desk.code.diff(first, second)) < PATIENCE_S


def test_the_forum_answers_others_while_it_compares_and_copies(tmp_path: Path) -> None:
    """Calls that take long are made beside the loop: here each of them waits until somebody else was answered."""
    actor: Any = ForumActor
    office = object.__new__(actor.__ray_metadata__.modified_class)
    office._aside = ThreadPoolExecutor(1)
    desk = Desk(tmp_path)
    office._forum, answered = desk.forum, asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> Callable[..., str]:
            def wait(*_: object, **__: object) -> str:
                deadline = time.monotonic() + 60
                while not answered.is_set() and time.monotonic() < deadline:
                    time.sleep(0.01)
                return "done" if answered.is_set() else "nobody was answered"

            return wait

    office._code = Slow()

    async def both() -> list[object]:
        push = asyncio.create_task(office.push_code("1", "01-a", {}, None, ""))
        diff = asyncio.create_task(office.diff("01-a", "x", "y"))
        await asyncio.sleep(0.05)
        assert await office.search("words") == []
        assert await office.claims() == []
        answered.set()
        return [await push, await diff]

    assert asyncio.run(both()) == ["done", "done"]
    office._aside.shutdown()
    desk.close()


def test_pushes_of_one_researcher_are_limited_in_rate_and_number(tmp_path: Path) -> None:
    desk = Desk(tmp_path, pushes_per_minute=3, pushes_per_researcher=5)

    def push(number: int, author: str = "01-a") -> str:
        return desk.code.push(str(number), author, {"method.py": f"x = {number}\n"}, None, "")

    for number in range(3):
        push(number)
    for reason, number, later in (("too_fast", 3, 0), ("push_limit", 5, 120_000_000)):
        desk.now += later
        for free in range(3, number):
            push(free)
        with pytest.raises(RefusedError) as caught:
            push(number)
        assert caught.value.reason == reason
    assert push(0), "a retry is no new push"
    assert push(9, "02-b"), "others are not concerned"
    desk.close()


def test_likeness_is_the_share_of_lines_in_common_and_a_sketch_comes_close() -> None:
    lines = [f"step {i}" for i in range(400)]
    changed = [*lines[:360], *(f"other {i}" for i in range(40))]
    assert likeness(sketch(lines), sketch(lines)) == 1.0
    assert likeness(sketch(lines), sketch(reversed(lines))) == 1.0
    assert likeness(sketch(lines), sketch(changed)) == pytest.approx(0.9, abs=0.03)
    assert likeness(sketch(lines), sketch(f"other {i}" for i in range(400))) == 0.0
    many = [f"step {i}" for i in range(20 * SIZE)]
    for share in (0.7, 0.9):
        mixed = [*many[: int(share * len(many))], *(f"x {i}" for i in range(int((1 - share) * len(many))))]
        assert likeness(sketch(many), sketch(mixed)) == pytest.approx(share, abs=0.08)
    assert sketch(["0"] * 10_000).count == MOST_REPEATS
    assert likeness(sketch([]), sketch([])) == 0.0


def test_a_copy_is_found_after_a_restart_and_without_sketches_of_an_older_version(desk: Desk) -> None:
    source = "\n".join(f"step_{i} = {i}" for i in range(60))
    root = desk.code.push("1", "01-a", {"method.py": source}, None, "")
    desk.code.read_by("02-b", root)
    with desk.store.transaction() as db:
        db.execute("DELETE FROM sketches")
    desk.close()
    desk.open()
    desk.code.push("1", "02-b", {"method.py": source.replace("step_7 = 7", "step_7 = 8")}, None, "")
    assert desk.journal.events(kind="push")[-1].payload["resembles"] == root
    assert 0.5 < ALIKE < 1


def test_what_an_undone_transaction_wrote_is_not_remembered(desk: Desk) -> None:
    def undone() -> None:
        with desk.store.transaction():
            desk.code.push("1", "01-a", {"method.py": "ghost = 1\n"}, None, "")
            assert desk.code._provenance.graph().seen_by("01-a")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        undone()
    desk.code.push("1", "02-b", {"method.py": "real = 1\n"}, None, "")
    with desk.store.transaction():
        assert desk.code._provenance.graph().seen_by("01-a") == frozenset()
        assert len(desk.code._provenance.graph().seen_by("02-b")) == 1


@pytest.mark.parametrize("cells", [10, 400_000])
def test_a_diff_turns_one_text_into_the_other_however_little_was_compared(cells: int) -> None:
    texts = [[str(i * step % width) for i in range(30)] for step in (1, 3, 7) for width in (2, 5, 40)]
    for one in texts:
        for other in texts:
            pairs = matched(one, other, cells)
            assert all(one[i] == other[j] for i, j in pairs)
            assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))
    old = "\n".join(map(str, range(30)))
    assert unified_diff(old, old.replace("\n7\n", "\nseven\n"), "a", "b") == [
        "--- a", "+++ b", "@@ -5,7 +5,7 @@", " 4", " 5", " 6", "-7", "+seven", " 8", " 9", " 10",
    ]  # fmt: skip
    assert unified_diff(old, old, "a", "b") == []
