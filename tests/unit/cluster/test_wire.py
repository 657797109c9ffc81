"""The wire: plain data goes through unchanged; hostile bytes raise `WireError` and nothing else."""

from __future__ import annotations

import contextlib
import io
import os
import resource
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.wire import MAX_FRAME, FrameReader, WireError, frame, pack, read_frame, unpack, write_frame

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
PLAIN = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=4), max_leaves=12)


@given(PLAIN)
@settings(deadline=None)
def test_plain_data_comes_back_as_it_was(obj: Any) -> None:
    assert unpack(pack(obj)) == obj
    stream = io.BytesIO()
    write_frame(stream, obj)
    write_frame(stream, obj)
    stream.seek(0)
    assert [read_frame(stream), read_frame(stream), read_frame(stream)] == [obj, obj, None]


def test_tuples_become_lists() -> None:
    assert unpack(pack((1, (2,)))) == [1, [2]]


@pytest.mark.parametrize(
    "obj",
    [
        object(), {1, 2}, {1: 2}, {b"a": 1}, 1 << 64, -(1 << 63) - 1, "\udc80", {"x": [3j]},
        msgpack.Timestamp(1), msgpack.ExtType(5, b"x"), [[msgpack.ExtType(0, b"")]],
    ],
)  # fmt: skip
def test_what_is_not_plain_is_not_written(obj: Any) -> None:
    with pytest.raises(WireError):
        pack(obj)


def nested(depth: int) -> Any:
    obj: Any = 1
    for _ in range(depth):
        obj = [obj]
    return obj


def test_depth_is_limited_on_both_sides() -> None:
    assert unpack(pack(nested(16))) == nested(16)
    with pytest.raises(WireError, match="deeper"):
        pack(nested(17))
    for depth in (17, 500, 100_000):
        with pytest.raises(WireError):
            unpack(b"\x91" * depth + b"\x01")
    with pytest.raises(WireError):
        pack(nested(100_000))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\xd6\xff\x00\x00\x00\x01", b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\xd4\x05x", b"\xc7\x00\x05", b"\x81\xc0\x01", b"\x81\x01\x01", b"\x81\xc4\x01a\x01", b"\x81\x90\x01",
        b"\xd9\x01\xff", b"\x01\x02", b"\xdb\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
        b"\xc9",
    ],
)  # fmt: skip
def test_known_tricks_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)
    with pytest.raises(WireError):
        FrameReader().feed(len(data).to_bytes(4, "big") + data)


def only_wire_errors(data: bytes, limit: int = MAX_FRAME) -> None:
    with contextlib.suppress(WireError):
        pack(unpack(data, limit))


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=300)
def test_random_bytes_raise_only_wire_errors(data: bytes) -> None:
    only_wire_errors(data)
    only_wire_errors(data, 50)
    reader = FrameReader(100)
    with contextlib.suppress(WireError):
        for byte in data:
            reader.feed(bytes([byte]))
    with contextlib.suppress(WireError):
        read_frame(io.BytesIO(data), 100)


@given(PLAIN, st.data())
@settings(deadline=None, max_examples=200)
def test_damaged_frames_raise_only_wire_errors(obj: Any, data: st.DataObject) -> None:
    body = bytearray(pack(obj))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    only_wire_errors(bytes(body))
    only_wire_errors(bytes(body)[: data.draw(st.integers(0, len(body)))])


@given(st.lists(PLAIN, max_size=5), st.data())
@settings(deadline=None)
def test_frames_survive_any_cut_of_the_stream(objects: list[Any], data: st.DataObject) -> None:
    stream = b"".join(frame(obj) for obj in objects)
    reader, out, at = FrameReader(), list[Any](), 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream)))
        out += reader.feed(stream[at : at + step])
        at += step
    assert out == objects


def test_sizes_are_limited() -> None:
    with pytest.raises(WireError, match="at most 10"):
        unpack(pack("x" * 20), 10)
    with pytest.raises(WireError, match="at most 10"):
        frame("x" * 20, 10)
    for announced in (11, 0xFFFFFFFF):
        header = announced.to_bytes(4, "big")
        with pytest.raises(WireError, match="announces"):
            FrameReader(10).feed(header)
        with pytest.raises(WireError, match="announces"):
            read_frame(io.BytesIO(header), 10)


def test_a_small_frame_that_announces_huge_containers_costs_little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = 900_000
    hostile = (b"\xdd" + size.to_bytes(4, "big")) * 1000 + bytes(size)
    for data in (hostile, b"\xdd" + (size * 2).to_bytes(4, "big") + bytes(size), b"\xc6\xff\xff\xff\xf0"):
        with pytest.raises(WireError):
            unpack(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize("cut", [1, 3, 4, 5])
def test_a_stream_that_ends_inside_a_frame_is_an_error(cut: int) -> None:
    with pytest.raises(WireError, match="ended inside"):
        read_frame(io.BytesIO(frame("abc")[:cut]))


def test_a_raw_pipe_that_gives_a_frame_in_pieces_is_read_whole() -> None:
    source, sink = os.pipe()
    with os.fdopen(source, "rb", buffering=0) as reader, os.fdopen(sink, "wb", buffering=0) as writer:
        body = frame("x" * 1000)
        writer.write(body[:2])
        writer.write(body[2:500])
        pieces = iter([body[500:]])

        class Slow(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                got = reader.read(min(size, 7))
                for piece in pieces:
                    writer.write(piece)
                return got or b""

        assert read_frame(Slow()) == "x" * 1000  # type: ignore[arg-type]
