"""The closing of a campaign: one signed statement of what its directory holds, made when nobody writes there any more.

Promises: the statement names the head of every journal, the content of every table and the bytes of every file, and
carries the evaluator's signature; a run that was closed is never written again by this system, so that whatever
differs later was changed by somebody else.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from actors.evaluator.records import Signer
from cluster.clock import now_us
from cluster.errors import AarError
from cluster.inventory import take
from cluster.journal import verify_chain
from cluster.names import RunPaths
from cluster.objects import sha256_hex
from cluster.store import Store, open_readonly

FORMAT = 1
LOCK_TIMEOUT_S = 30.0


class ClosingError(AarError):
    """The run cannot be closed."""


def close_run(paths: RunPaths) -> str:
    """Write `closing.json`; the sha256 of its bytes. Raises `ClosingError`, `StoreBusyError`, `OSError`.

    Every store is opened once more as its writer, so that all of it stands in its own file and nobody else holds it.
    """
    if not paths.signing_key.exists():
        raise ClosingError(f"the evaluator's key is not at {paths.signing_key}: nothing can be signed")
    signer = Signer.load_or_create(paths.signing_key)
    try:
        for path in paths.databases().values():
            Store(path, LOCK_TIMEOUT_S).close()
        found = take(paths)
        heads = _heads(paths)
    except sqlite3.DatabaseError as error:
        raise ClosingError(f"a store is damaged: {error}") from error
    fields: dict[str, Any] = {
        "statement": "closing",
        "format": FORMAT,
        "campaign": paths.root.name,
        "public_key": signer.public_hex,
        "closed_us": now_us(),
        "heads": heads,
        "tables": found.tables,
        "files": found.files,
    }
    data = statement_bytes(signer.statement(fields))
    partial = paths.closing.with_name(f".{paths.closing.name}.tmp")
    partial.write_bytes(data)
    partial.replace(paths.closing)
    return sha256_hex(data)


def statement_bytes(statement: dict[str, Any]) -> bytes:
    """The one form in which a statement is written."""
    return (json.dumps(statement, indent=1) + "\n").encode("ascii")


def _heads(paths: RunPaths) -> dict[str, dict[str, Any]]:
    heads = {}
    for name, path in paths.databases().items():
        db = open_readonly(path)
        try:
            report = verify_chain(db)
        finally:
            db.close()
        heads[name] = {"seq": report.events, "hash": report.head}
    return heads
