"""Requests are read once: what is remembered of them is what a first reading finds, and only of what was stored."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gateway import recorder, requests
from actors.gateway.requests import PREFIX, Body, Parts, RequestParser, canonical, digest, without_marks
from actors.gateway.retries import Failure
from cluster.errors import Reason, RefusedError
from tests.unit.actors.gateway_world import MEMORY, TEAM, FakeLedger, Simulated, answer, make, request

MARK = {"type": "ephemeral"}
NUMBERS = (0, 0.0, -0.0, False, 1, 1.0, True, 1 << 70)
WORDS = ("a", "é", "\U0001f600", "1", "cache_control", '"cache_control"')
NAMES = ("text", "content", "cache_control", "model", "ü")
REFUSED = ("\ud83d", float("nan"), b"a", {1: 1, "a": 1}, [{"type": "image"}])

values = st.recursive(
    st.none() | st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.just({1: "a"}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
dicts = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
messages = dicts | st.builds(lambda text, more: {"role": "user", "content": [{"text": text, **more}]}, values, dicts)


def turned(value: Any) -> Any:
    """The same value with every mapping in another order."""
    if isinstance(value, dict):
        return {name: turned(item) for name, item in reversed(value.items())}
    return [turned(item) for item in value] if isinstance(value, list) else value


def retyped(value: Any, kind: Callable[[Any], Any] = list) -> Any:
    """A value that looks the same, with numbers of other types and lists of a `kind`."""
    if isinstance(value, dict):
        return {name: retyped(item, kind) for name, item in value.items()}
    if isinstance(value, list):
        return kind(retyped(item, kind) for item in value)
    return float(value) if isinstance(value, int) and value < 2 else value


def variants(plain: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The values and those that differ from them in an order or in types."""
    return [*plain, *map(turned, plain), *map(retyped, plain), *(retyped(one, tuple) for one in plain)]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Requests of a conversation that grows and is cut. Messages come again: as they were, changed, and marked; few
    cannot be sent.
    """
    pool = variants(draw(st.lists(messages, min_size=1, max_size=4)))
    pool += [{**one, "cache_control": draw(st.sampled_from((MARK, 1, True)))} for one in pool]
    fields = st.fixed_dictionaries({}, optional={"system": values, "metadata": values})
    rests = variants(draw(st.lists(fields, min_size=1, max_size=2)))
    talk: list[dict[str, Any]] = []
    asked = []
    for _ in range(draw(st.integers(1, 6))):
        talk = talk[draw(st.sampled_from((0, 0, 0, 2))) :] + draw(st.lists(st.sampled_from(pool), min_size=1))
        odd = draw(st.sampled_from((*[None] * 15, *REFUSED)))
        last = [] if odd is None else [{"role": "user", "content": odd}]
        asked.append({**request(), **draw(st.sampled_from(rests)), "messages": talk + last})
    return asked


def seen(reader: RequestParser, body: dict[str, Any]) -> tuple[Body, Parts] | tuple[str, str, dict[str, Any]]:
    """What a reader makes of a request, or why it refuses it."""
    try:
        return reader.parse(body)
    except RefusedError as error:
        return error.reason, error.message, error.detail


def rest_of(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "messages"}


@settings(deadline=None, max_examples=150)
@given(conversations(), st.data())
def test_a_memory_changes_nothing_but_the_bodies_that_come_again(
    asked: list[dict[str, Any]], data: st.DataObject
) -> None:
    reader, stored = RequestParser(), set[str]()
    for body in asked:
        found, alone = seen(reader, body), seen(RequestParser(), body)
        if not isinstance(found[1], Parts) or not isinstance(alone[1], Parts):
            assert found == alone
            continue
        parts, first = found[1], alone[1]
        assert found[0] == alone[0]
        assert repr((parts.nodes, parts.rest, parts.prefix, parts.marks, parts.request)) == repr(
            (first.nodes, first.rest, first.prefix, first.marks, first.request)
        )
        named = {parts.rest, *(sha for _, _, sha, _ in parts.nodes)}
        assert set(first.bodies) == named
        assert named - stored <= set(parts.bodies) <= named
        if data.draw(st.booleans()):
            reader.remember(parts)
            stored |= set(parts.bodies)


@settings(deadline=None, max_examples=150)
@given(conversations())
def test_a_request_is_measured_and_named_by_its_json(asked: list[dict[str, Any]]) -> None:
    reader = RequestParser()
    for body in asked:
        found = seen(reader, body)
        if not isinstance(found[1], Parts):
            continue
        parts = found[1]
        reader.remember(parts)
        assert found[0] == Body(body, len(canonical(body)))
        bare, marks = without_marks(rest_of(body) | {"messages": body["messages"]})
        assert repr(parts.marks) == repr(marks)
        said = [canonical(message) for message in bare["messages"]]
        assert [(sha, size) for _, _, sha, size in parts.nodes] == [(digest(one), len(one)) for one in said]
        assert parts.rest == digest(canonical(rest_of(bare)))
        assert parts.prefix == digest(canonical({name: bare[name] for name in PREFIX if name in bare}))


def said(*texts: str) -> dict[str, Any]:
    return request(system="s", messages=[{"role": "user", "content": text} for text in texts])


def names(*texts: str) -> set[str]:
    """The names of messages."""
    return {digest(canonical(message)) for message in said(*texts)["messages"]}


def test_only_what_is_new_is_stored_again() -> None:
    reader = RequestParser()
    _, parts = reader.parse(said("a", "b"))
    assert set(parts.bodies) == names("a", "b") | {parts.rest}
    assert set(reader.parse(said("a", "b"))[1].bodies) == set(parts.bodies), "it was not stored yet"
    reader.remember(parts)
    assert set(reader.parse(said("a", "b", "c"))[1].bodies) == names("c")
    assert set(reader.parse({**said("b"), "system": "t"})[1].bodies) == {
        digest(canonical({**rest_of(said("b")), "system": "t"}))
    }


def test_a_turn_takes_as_many_steps_after_a_long_history_as_after_a_short_one() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.row_factory = sqlite3.Row
    db.executescript(recorder.DDL)
    reader, steps = RequestParser(), list[tuple[int, int]]()
    for turn in range(20):
        statements: list[str] = []
        db.set_trace_callback(statements.append)
        _, parts = reader.parse(said(*map(str, range(2 * turn + 1))))
        recorder.store(db, f"k{turn}", TEAM[0], parts, answer(str(turn)))
        reader.remember(parts)
        steps.append((len(parts.bodies), len(statements)))
    assert len(set(steps[1:])) == 1
    assert recorder.damaged(db) == []


def test_what_was_not_asked_for_the_longest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_PIECES", 3)
    reader = RequestParser()
    for texts in (("a", "b"), ("a", "c")):  # with the rest, two and three pieces
        reader.remember(reader.parse(said(*texts))[1])
    assert set(reader.parse(said("a", "b", "c"))[1].bodies) == names("b")


def test_a_message_full_of_breakpoints_is_read_each_time() -> None:
    block = {"cache_control": MARK}
    body = request(messages=[{"role": "user", "content": [{"type": "tool_use", "input": [block] * 100}]}])
    reader = RequestParser()
    _, parts = reader.parse(body)
    reader.remember(parts)
    _, again = reader.parse(body)
    assert len(again.bodies) == 1
    assert (again.request, again.marks) == (parts.request, parts.marks)


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield Path(path)


def test_what_was_asked_and_never_answered_is_recorded_with_the_next_answer(root: Path) -> None:
    refused = Failure(Reason.BAD_REQUEST, "no")
    gateway = make(root, FakeLedger(root / "scheduler.db"), Simulated(answer(), refused, answer(), answer()))

    async def ask() -> None:
        await gateway.call("k0", TEAM[0], said("a"))
        with pytest.raises(RefusedError, match="no"):
            await gateway.call("k1", TEAM[0], said("a", "b", "c"))
        await gateway.call("k1", TEAM[0], said("a", "b", "c", "d"))
        await gateway.call("k2", TEAM[1], said("b", "c"))

    asyncio.run(ask())
    with gateway.attempts.store.transaction() as db:
        assert recorder.damaged(db) == []
        assert recorder.load_request(db, "k1") == said("a", "b", "c", "d")
        assert recorder.load_request(db, "k2") == said("b", "c")
        assert db.execute("SELECT COUNT(*) FROM nodes").fetchone()[0] == 6
