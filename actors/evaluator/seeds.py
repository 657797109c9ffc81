"""The seeds behind a record: bound by a commitment before anybody knows them, checkable when the secret is revealed.

A record names neither its seeds nor anything that they could be guessed from. Its commitment is a hash over them and a
nonce; both are drawn from the campaign's secret, so that whoever has that can draw the seeds again, see that they are
those that were committed to, and train with them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from actors.evaluator.secret import Secret, SecretError
from actors.evaluator.tiers import FIRST_CEILING, FIRST_TEACHER, training_seed
from cluster.names import RunPaths
from cluster.store import Store
from cluster.wire import pack

SEEDS_BY_CODE = "seeds-by-code"
"""Name of a file that has a run directory draw seeds for each code, as the first campaigns did."""


def seeds_behind(secret: Secret, record: dict[str, Any]) -> list[int]:
    """The training seeds of a method's students, or of the teachers (`weak`) or ceilings of a reference record.

    A record that names its entrant was made with the seeds that all methods share, an older one with its code's own.
    """
    tier, domain, count = record["tier"], record["domain"], record["seeds"]
    if record["code_hash"]:
        seeded_by = "" if record.get("entrant") else record["code_hash"]
        return [training_seed(secret, seeded_by, tier, domain, index) for index in range(count)]
    role, first = ("teacher", FIRST_TEACHER) if record["method"] == "weak" else ("ceiling", FIRST_CEILING)
    return [secret.seed(role, domain, first[tier] + index) for index in range(count)]


def seed_commitment(secret: Secret, record: dict[str, Any]) -> str:
    """64 hexadecimal digits that bind to the seeds of a record (as plain data)."""
    who = (record["method"] if not record["code_hash"] else "", record["code_hash"], record["tier"], record["domain"])
    nonce = secret.draw("seed commitment", *who)
    return hashlib.sha256(pack([nonce, seeds_behind(secret, record)])).hexdigest()


def seeds_are_shared(store: Store, folder: Path) -> bool:
    """Whether methods train with the same seeds, as in every campaign that begins now; decided once for each.

    A campaign that began before gave each code seeds of its own, and keeps to that; so does the replay of one of its
    records, which says so by a file in its `folder`.
    """

    def decide(db: sqlite3.Connection) -> bool:
        begun = db.execute("SELECT 1 FROM once WHERE key = 'started'").fetchone() is not None
        return not begun and not (folder / SEEDS_BY_CODE).exists()

    return store.once("seeds are shared", decide)


def write_revealed(path: Path, secret: Secret) -> None:
    """Publish a secret whose campaign has ended, in one step."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"secret": secret.revealed(), "commitment": secret.commitment()}) + "\n")
    partial.chmod(0o644)
    partial.rename(path)


def read_secret(paths: RunPaths) -> Secret:
    """A run's secret: the revealed one, else the private one for whoever may read it. Raises `SecretError`."""
    if paths.revealed.exists():
        try:
            return Secret(bytes.fromhex(json.loads(paths.revealed.read_text(encoding="utf-8"))["secret"]))
        except (ValueError, KeyError, TypeError) as error:
            raise SecretError(f"{paths.revealed} is damaged: {error}") from error
    private = paths.judge / "secret.bin"
    if not private.exists():
        raise SecretError(f"{paths.root.name} has not revealed its secret: it does so when its finalists are sealed")
    return Secret.load_or_create(private)
