"""The wire format across a trust boundary: length-prefixed msgpack frames with hard limits.

Promises: no extension types (timestamps included), no pickled objects, string keys only, bounded total size, bounded
depth. Anything else raises `WireError`, when it is written as when it is read: what `pack` accepts, `unpack` reads
back. A reader buffers at most `max_bytes` of one frame, and no container is longer than the frame that holds it.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO, NoReturn

import msgpack

from cluster.errors import AarError

MAX_FRAME = 1 << 20
"""One mebibyte: a control message is small; large things travel as files."""
_MAX_DEPTH = 16
_HEADER = struct.Struct(">I")


class WireError(AarError):
    """Bytes that are not a frame of this format."""


def pack(obj: Any) -> bytes:
    """The msgpack bytes of plain data: None, bool, 64-bit int, float, str, bytes, list or tuple, dict with str keys.

    Raises `WireError` on anything else, and on data that is nested too deep to be read back.
    """
    _check_plain(obj)
    try:
        packed: bytes = msgpack.packb(obj, use_bin_type=True, strict_types=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"not plain data: {error}") from error
    return packed


def _refuse_ext(code: int, data: bytes) -> NoReturn:
    raise WireError(f"extension type {code} ({len(data)} bytes) is not allowed")


def _check_plain(obj: Any, left: int = _MAX_DEPTH) -> None:
    if left < 0:
        raise WireError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise WireError(f"key of type {type(key).__name__}, expected str")
            _check_plain(value, left - 1)
    elif isinstance(obj, (msgpack.Timestamp, msgpack.ExtType)):
        raise WireError("extension types are not allowed")
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _check_plain(value, left - 1)


def unpack(data: bytes, max_bytes: int = MAX_FRAME) -> Any:
    """The object in `data`. Raises `WireError` when it is too large, malformed, too deep or has foreign types."""
    if len(data) > max_bytes:
        raise WireError(f"{len(data)} bytes, at most {max_bytes} are allowed")
    try:
        obj = msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_refuse_ext)
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise WireError(f"not msgpack: {str(error) or type(error).__name__}") from error
    _check_plain(obj)
    return obj


def frame(obj: Any, max_bytes: int = MAX_FRAME) -> bytes:
    """`obj` as one length-prefixed frame. Raises `WireError` when it would exceed `max_bytes`."""
    body = pack(obj)
    if len(body) > max_bytes:
        raise WireError(f"frame of {len(body)} bytes, at most {max_bytes} are allowed")
    return _HEADER.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frames, without ever holding more than one frame's limit and one read."""

    def __init__(self, max_bytes: int = MAX_FRAME) -> None:
        self._max = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The complete objects that `data` finished. Raises `WireError` on a hostile length or body."""
        self._buffer += data
        out: list[Any] = []
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > self._max:
                raise WireError(f"frame announces {length} bytes, at most {self._max} are allowed")
            if len(self._buffer) < _HEADER.size + length:
                break
            body = bytes(self._buffer[_HEADER.size : _HEADER.size + length])
            del self._buffer[: _HEADER.size + length]
            out.append(unpack(body, self._max))
        return out


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    """Up to `count` bytes, fewer only at the end of the stream; a raw pipe may return them in pieces."""
    parts = bytearray()
    while len(parts) < count:
        piece = stream.read(count - len(parts))
        if not piece:
            break
        parts += piece
    return bytes(parts)


def read_frame(stream: BinaryIO, max_bytes: int = MAX_FRAME) -> Any | None:
    """The next frame of a blocking stream, or `None` at a clean end. Raises `WireError` on a cut or hostile frame."""
    header = _read_exactly(stream, _HEADER.size)
    if not header:
        return None
    if len(header) < _HEADER.size:
        raise WireError("stream ended inside a frame header")
    (length,) = _HEADER.unpack(header)
    if length > max_bytes:
        raise WireError(f"frame announces {length} bytes, at most {max_bytes} are allowed")
    body = _read_exactly(stream, length)
    if len(body) < length:
        raise WireError("stream ended inside a frame")
    return unpack(body, max_bytes)


def write_frame(stream: BinaryIO, obj: Any, max_bytes: int = MAX_FRAME) -> None:
    """Write one frame and flush."""
    stream.write(frame(obj, max_bytes))
    stream.flush()
