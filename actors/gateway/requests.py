"""Requests of researchers: what may stand in them, the most tokens that they become, and their parts. Pure but for its
memory.

What has no price in the table is refused: other service tiers, speeds and regions, tools that the vendor runs, beta
features with prices of their own, images and documents (whose tokens no count of bytes bounds).

A turn sends its whole history again, so a request is checked, measured and taken apart in one pass, at the cost of what
is new in it. A message that was read and stored before is known by its fingerprint, and what reading it found out is
remembered; so is what stands beside the messages. What is remembered passed every check of its content, and is
certainly stored: it is learnt after the exchange that brought it.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from cluster.errors import Reason, RefusedError

FIELDS = frozenset({
    "model", "max_tokens", "system", "messages", "tools", "tool_choice", "thinking", "context_management", "betas",
    "metadata", "stop_sequences", "temperature", "top_p", "top_k", "output_config", "cache_control",
})  # fmt: skip
TOOL_TYPES = ("custom", "bash_", "text_editor_", "memory_")
"""Tools that the client runs; those that the vendor runs have prices of their own."""
PRICED_BETAS = ("context-1m", "fast-mode")
"""Beta features that change the price of a token."""
UNBOUNDED = frozenset({"image", "document", "container_upload"})
MOST_BYTES = 32 << 20
"""The endpoint takes no larger body."""
HIDDEN_TOKENS = 2048
"""What the vendor adds to a prompt by itself (it documents about 350 tokens for tools and 700 for those of its own
making), generously."""


@dataclass(frozen=True, slots=True)
class Body:
    """A checked request. `size` is the length of its JSON in bytes."""

    fields: dict[str, Any]
    size: int

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.fields["model"])

    @property
    def max_tokens(self) -> int:
        """Most tokens of output."""
        return int(self.fields["max_tokens"])

    @property
    def compacts(self) -> bool:
        """True if the endpoint may compact the history, which costs another pass over it."""
        edits = (self.fields.get("context_management") or {}).get("edits") or []
        return any(str(edit.get("type", "")).startswith("compact") for edit in edits)

    @property
    def input_bound(self) -> int:
        """At least as many tokens as the prompt has.

        A token of a byte-level vocabulary is at least one byte of the text that it stands for, and the JSON of a
        block is longer than its text by more than the few special tokens that frame it.
        """
        return self.size + HIDDEN_TOKENS


def check_fields(request: Any) -> None:
    """Refuse what is no body, or has fields without a price. Raises `RefusedError` "bad_request"."""
    if not isinstance(request, dict):
        raise bad("request", "expected a mapping")
    unknown = sorted(set(request) - FIELDS)
    if unknown:
        raise bad(unknown[0], f"not priced or not known; expected fields among {', '.join(sorted(FIELDS))}")
    _check_shape(request)
    for tool in request.get("tools") or ():
        if not isinstance(tool, dict) or not str(tool.get("type") or "custom").startswith(TOOL_TYPES):
            raise bad("tools", "tools that the endpoint runs have prices that are not in the table")
    for beta in request.get("betas") or ():
        if str(beta).startswith(PRICED_BETAS):
            raise bad("betas", f"{beta} changes prices in a way that is not in the table")


def check_content(messages: list[dict[str, Any]]) -> None:
    """Refuse blocks whose tokens no count of bytes bounds. Raises `RefusedError` "bad_request"."""
    for block in _blocks(messages):
        if block.get("type") in UNBOUNDED:
            raise bad("messages", f"a block of type {block['type']} has tokens that cannot be counted beforehand")


def check_size(size: int) -> None:
    """Refuse a body of so many bytes when the endpoint does. Raises `RefusedError` "too_large"."""
    if size > MOST_BYTES:
        detail = {"bytes": size, "most": MOST_BYTES}
        raise RefusedError(Reason.TOO_LARGE, f"the request has {size} bytes, the endpoint takes {MOST_BYTES}", detail)


def _check_shape(request: dict[str, Any]) -> None:
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise bad("model", "expected a name")
    tokens = request.get("max_tokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 < tokens <= 1_000_000:
        raise bad("max_tokens", "expected an integer from 1 to 1000000")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise bad("messages", "expected a list of messages")


def bad(field: str, expected: str) -> RefusedError:
    """A refusal of what stands in a field."""
    return RefusedError(Reason.BAD_REQUEST, f"{field}: {expected}", {"field": field})


def _blocks(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All content blocks, those inside of tool results too."""
    stack: list[Any] = [message.get("content") for message in messages]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            yield value
            stack.append(value.get("content"))


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def digest(data: bytes) -> str:
    """Lower-case hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


Steps = list[str | int]
"""The steps from a value to a block in it."""
Mark = tuple[Steps, Any]
"""A `cache_control` with the path to the block that had it."""


def without_marks(value: Any, path: tuple[str | int, ...] = ()) -> tuple[Any, list[Mark]]:
    """The value without its `cache_control` entries, and those entries.

    Breakpoints move on with every turn; without them the older part of a history stays the same.
    """
    if isinstance(value, dict):
        marks: list[Mark] = [(list(path), value["cache_control"])] if "cache_control" in value else []
        bare = {}
        for name, item in value.items():
            if name != "cache_control":
                bare[name], found = without_marks(item, (*path, name))
                marks += found
        return bare, marks
    if isinstance(value, list):
        pairs = [without_marks(item, (*path, n)) for n, item in enumerate(value)]
        return [item for item, _ in pairs], [mark for _, found in pairs for mark in found]
    return value, []


def with_marks(value: Any, marks: list[Mark]) -> Any:
    """The inverse of `without_marks`; changes `value` in place."""
    for path, mark in marks:
        block_at(value, path)["cache_control"] = mark
    return value


def block_at(value: Any, path: Steps) -> Any:
    """The block at the end of a path."""
    for step in path:
        value = value[step]
    return value


def asks_long_cache(marks: list[Mark]) -> bool:
    """Return True if a breakpoint asks for a cache of an hour."""
    return any(isinstance(mark, dict) and mark.get("ttl") == "1h" for _, mark in marks)


ROOT = ""
"""The predecessor of the first message."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A message, or all that stands beside the messages, as it is recorded: `sha` and `size` are the name and the bytes
    of its JSON without breakpoints, `whole` the bytes with them, `paths` lead to the blocks in it that have one.
    `prefix` is the name of those of its fields that decide how many tokens a prompt has.
    """

    sha: str
    size: int
    whole: int
    paths: list[Steps]
    prefix: str


@dataclass(frozen=True, slots=True)
class Parts:
    """A request taken apart: `nodes` as `(sha, parent, message sha, bytes)` from first to last, `rest` and `prefix` as
    the names of what stands beside the messages: of all of it, and of what counts as input. `bodies` are by sha, and
    of what may not be stored yet; `fresh` are the pieces that are stored with these, by fingerprint.
    """

    bodies: dict[str, bytes]
    fresh: dict[bytes, Piece]
    nodes: tuple[tuple[str, str, str, int], ...]
    rest: str
    prefix: str
    marks: list[Mark]

    @property
    def head(self) -> str:
        """The last node."""
        return self.nodes[-1][0]

    @property
    def request(self) -> str:
        """The name of the whole request."""
        return request_name(self.head, self.rest, self.marks)


def node_name(parent: str, message: str) -> str:
    """The name of the node of a message after its predecessor's node."""
    return digest(f"{parent}/{message}".encode())


def request_name(head: str, rest: str, marks: list[Any]) -> str:
    """The name of a whole request: its messages, what stands beside them, and its breakpoints."""
    return digest(canonical([head, rest, marks]))


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

    def parse(self, request: Any) -> tuple[Body, Parts]:
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

    def remember(self, parts: Parts) -> None:
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
