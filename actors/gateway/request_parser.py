"""Requests as they come in: checked, measured and taken apart in one pass, at the cost of what is new in them.

A turn sends its whole history again. A message that was read and stored before is known by its fingerprint, and what
reading it found out is remembered; so is what stands beside the messages. What is remembered passed every check of its
content, and is certainly stored: it is learnt after the exchange that brought it. The memory is the process's own.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import msgpack

from actors.gateway.recorder import ROOT, Parts, Piece, node_name
from actors.gateway.request import (
    Body,
    Mark,
    Steps,
    bad,
    block_at,
    canonical,
    check_content,
    check_fields,
    check_size,
    digest,
    without_marks,
)

PREFIX = ("model", "system", "tools", "tool_choice", "thinking")
"""Fields beside the messages that decide how many tokens a prompt has."""
MARK = b'"cache_control"'
MOST_PIECES = 50_000
"""Pieces that are remembered, at about 600 bytes each; what was not asked for the longest is forgotten first."""
MOST_PATHS = 1024
"""Bytes of the paths to breakpoints of a piece that is remembered: a few, at ordinary places."""
_AROUND = len(',"messages":[]')
_NO_KEY = b""


class RequestParser:
    """Reads requests and remembers the pieces that were stored."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Piece] = OrderedDict()
        self._packer = msgpack.Packer(strict_types=True)

    def take(self, request: Any) -> tuple[Body, Parts]:
        """A request checked and taken apart. Raises `RefusedError`: "bad_request", "too_large"."""
        check_fields(request)
        messages: list[dict[str, Any]] = request["messages"]
        values = [{name: value for name, value in request.items() if name != "messages"}, *messages]
        keys = [self._fingerprint(value) for value in values]
        found = [self._recall(key) for key in keys]
        check_content([value for value, piece in zip(values, found, strict=True) if piece is None])
        bodies: dict[str, bytes] = {}
        fresh: dict[bytes, Piece] = {}
        pieces: list[Piece] = []
        for value, key, known in zip(values, keys, found, strict=True):
            piece = known
            if piece is None:
                piece, body = _read(value)
                bodies[piece.sha] = body
                if key != _NO_KEY:
                    fresh[key] = piece
            pieces.append(piece)
        size = sum(piece.whole for piece in pieces) + _AROUND + len(messages) - 1
        check_size(size)
        return Body(request, size), _joined(values, pieces, bodies, fresh)

    def learn(self, parts: Parts) -> None:
        """Remember what was fresh in a request, now that it is stored."""
        for key, piece in parts.fresh.items():
            if not piece.paths or len(canonical(piece.paths)) <= MOST_PATHS:
                self._known[key] = piece
        while len(self._known) > MOST_PIECES:
            self._known.popitem(last=False)

    def _recall(self, key: bytes) -> Piece | None:
        piece = self._known.get(key)
        if piece is not None:
            self._known.move_to_end(key)
        return piece

    def _fingerprint(self, value: dict[str, Any]) -> bytes:
        """Tells any two values apart that differ in a type or in an order; `_NO_KEY` for what is not plain data."""
        try:
            return hashlib.sha256(self._packer.pack(value)).digest()
        except (TypeError, ValueError, OverflowError):
            return _NO_KEY


def _read(value: dict[str, Any]) -> tuple[Piece, bytes]:
    """What there is to know of a piece, and its JSON without breakpoints. Raises `RefusedError` "bad_request"."""
    try:
        body = canonical(value)
        body.decode()  # half a surrogate pair is refused here
        whole = len(body)
        paths: list[Steps] = []
        if MARK in body:  # a text may hold these words, too: it then comes out as it went in
            value, marks = without_marks(value)
            paths = [path for path, _ in marks]
            body = canonical(value)
        prefix = digest(canonical({name: value[name] for name in PREFIX if name in value}))
    except (TypeError, ValueError, RecursionError) as error:
        raise bad("request", f"not JSON: {error}") from None
    return Piece(digest(body), len(body), whole, paths, prefix), body


def _joined(
    values: list[dict[str, Any]], pieces: list[Piece], bodies: dict[str, bytes], fresh: dict[bytes, Piece]
) -> Parts:
    """The parts of a request from its values and their pieces: what stands beside the messages, then each message."""
    rest = pieces[0]
    marks = _marks([], values[0], rest)
    nodes, parent = [], ROOT
    for number, (value, piece) in enumerate(zip(values[1:], pieces[1:], strict=True)):
        node = node_name(parent, piece.sha)
        nodes.append((node, parent, piece.sha, piece.size))
        parent = node
        if piece.paths:
            marks += _marks(["messages", number], value, piece)
    return Parts(bodies, fresh, tuple(nodes), rest.sha, rest.prefix, marks)


def _marks(where: Steps, value: dict[str, Any], piece: Piece) -> list[Mark]:
    """The breakpoints of a value that stands `where` in its request."""
    return [([*where, *path], block_at(value, path)["cache_control"]) for path in piece.paths]
