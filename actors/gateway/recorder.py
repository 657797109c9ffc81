"""Exchanges as they were: every request and answer, each distinct message stored once.

A request is a chain of messages (each node names its predecessor), the rest of the body, and the places of its cache
breakpoints. A turn adds its new messages only, so that a history of n turns takes space in proportion to n. Names are
sha256 over canonical JSON: what is read back is checked. Keys of the API never come here: they are not in a body.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from typing import Any

from actors.gateway.requests import ROOT, Mark, Parts, canonical, digest, node_name, request_name, with_marks
from cluster.errors import AarError

DDL = """
CREATE TABLE IF NOT EXISTS blocks (sha TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (sha TEXT PRIMARY KEY, parent TEXT NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exchanges (
    key TEXT PRIMARY KEY,
    researcher TEXT NOT NULL,
    request TEXT NOT NULL,
    head TEXT NOT NULL,
    rest TEXT NOT NULL,
    prefix TEXT NOT NULL,
    marks TEXT NOT NULL,
    content TEXT NOT NULL,
    message TEXT NOT NULL,
    prompt_tokens INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exchanges_prefix ON exchanges (head, prefix);
"""


class RecordError(AarError):
    """A recording that is missing a part or was changed."""


def store(db: sqlite3.Connection, key: str, researcher: str, parts: Parts, message: dict[str, Any]) -> str:
    """Keep an exchange, in the caller's transaction; the name of its answer."""
    said = {"role": "assistant", "content": message.get("content") or []}
    about = {name: value for name, value in message.items() if name != "content"}
    content, outside = canonical(said), canonical(about)
    bodies = {**parts.bodies, digest(content): content, digest(outside): outside}
    known = {row["sha"] for sha in bodies for row in db.execute("SELECT sha FROM blocks WHERE sha = ?", (sha,))}
    rows = [(sha, zlib.compress(body, 1)) for sha, body in bodies.items() if sha not in known]
    db.executemany("INSERT INTO blocks VALUES (?, ?)", rows)
    db.executemany("INSERT INTO nodes VALUES (?, ?, ?)", _new_nodes(db, parts))
    db.execute(
        "INSERT INTO exchanges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key, researcher, parts.request, parts.head, parts.rest, parts.prefix, json.dumps(parts.marks),
            digest(content), digest(outside), prompt_tokens(message),
        ),
    )  # fmt: skip
    return _answer(digest(content), digest(outside))


def _new_nodes(db: sqlite3.Connection, parts: Parts) -> list[tuple[str, str, str]]:
    """The nodes that are not stored; one that is was stored together with all before it."""
    new: list[tuple[str, str, str]] = []
    for sha, parent, message, _ in reversed(parts.nodes):
        if db.execute("SELECT 1 FROM nodes WHERE sha = ?", (sha,)).fetchone():
            break
        new.append((sha, parent, message))
    return new


def _answer(content: str, message: str) -> str:
    return digest(f"{content}/{message}".encode())


def prompt_tokens(message: dict[str, Any]) -> int | None:
    """Tokens of the whole prompt as it was sent; `None` when the usage does not tell, as after a compaction."""
    usage = message.get("usage") or {}
    if any(entry.get("type") != "message" for entry in usage.get("iterations") or ()):
        return None
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    edits = (message.get("context_management") or {}).get("applied_edits") or []
    cleared = sum(int(edit.get("cleared_input_tokens") or 0) for edit in edits)
    counted = sum(int(usage.get(kind) or 0) for kind in kinds)
    return counted + cleared if counted else None


def counted_bound(db: sqlite3.Connection, parts: Parts) -> int | None:
    """An upper bound of the prompt's tokens from an earlier exchange that it continues, or `None`.

    The endpoint counted that part; only what was added since is bounded by its bytes.
    """
    added = 0
    for node, _, _, size in reversed(parts.nodes):
        query = "SELECT MAX(prompt_tokens) AS tokens FROM exchanges WHERE head = ? AND prefix = ?"
        row = db.execute(query, (node, parts.prefix)).fetchone()
        if row["tokens"] is not None:
            return int(row["tokens"]) + added
        added += size
    return None


def load_message(db: sqlite3.Connection, key: str) -> dict[str, Any] | None:
    """The recorded answer under a key. Raises `RecordError`."""
    row = db.execute("SELECT content, message FROM exchanges WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    said, about = _load(db, row["content"]), _load(db, row["message"])
    return {**about, "content": said["content"]}


def load_request(db: sqlite3.Connection, key: str) -> dict[str, Any] | None:
    """The recorded request under a key, as it was sent. Raises `RecordError`."""
    row = db.execute("SELECT head, rest, marks FROM exchanges WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    messages: list[Any] = []
    at = row["head"]
    while at != ROOT:
        node = db.execute("SELECT parent, message FROM nodes WHERE sha = ?", (at,)).fetchone()
        if node is None or node_name(node["parent"], node["message"]) != at:
            raise RecordError(f"the recording of {key} is damaged: no node {at}")
        messages.append(_load(db, node["message"]))
        at = node["parent"]
    request = {**_load(db, row["rest"]), "messages": messages[::-1]}
    whole: dict[str, Any] = with_marks(request, json.loads(row["marks"]))
    return whole


def load_marks(db: sqlite3.Connection, key: str) -> list[Mark]:
    """The cache breakpoints of the recorded request under a key."""
    row = db.execute("SELECT marks FROM exchanges WHERE key = ?", (key,)).fetchone()
    return [] if row is None else [(path, mark) for path, mark in json.loads(row["marks"])]


def names(db: sqlite3.Connection, key: str) -> tuple[str, str] | None:
    """The names of the recorded request and answer under a key, made anew from those of their parts."""
    row = db.execute("SELECT head, rest, marks, content, message FROM exchanges WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    return request_name(row["head"], row["rest"], json.loads(row["marks"])), _answer(row["content"], row["message"])


def damaged(db: sqlite3.Connection) -> list[str]:
    """Names of blocks and nodes that are not what they are named after, or that miss a part; each is read once."""
    blocks, bad = set[str](), list[str]()
    for row in db.execute("SELECT sha, body FROM blocks"):
        blocks.add(row["sha"])
        if _body(row["body"], row["sha"]) is None:
            bad.append(str(row["sha"]))
    nodes = {row["sha"]: (row["parent"], row["message"]) for row in db.execute("SELECT * FROM nodes")}
    for sha, (parent, message) in nodes.items():
        if node_name(parent, message) != sha or message not in blocks or (parent != ROOT and parent not in nodes):
            bad.append(str(sha))
    for row in db.execute("SELECT head, rest FROM exchanges"):
        bad += [sha for sha, known in ((row["head"], nodes), (row["rest"], blocks)) if sha not in known]
    return bad


def _body(packed: bytes, sha: str) -> bytes | None:
    """A stored block's bytes if they are what the name says."""
    try:
        body = zlib.decompress(packed)
    except zlib.error:
        return None
    return body if digest(body) == sha else None


def _load(db: sqlite3.Connection, sha: str) -> dict[str, Any]:
    row = db.execute("SELECT body FROM blocks WHERE sha = ?", (sha,)).fetchone()
    body = None if row is None else _body(row["body"], sha)
    if body is None:
        raise RecordError(f"a recorded block {sha} is missing or was changed")
    value: dict[str, Any] = json.loads(body)
    return value
