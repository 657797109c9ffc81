"""The seeds behind a record: bound by a commitment before anybody knows them, checkable when the secret is revealed.

A record names neither its seeds nor anything that they could be guessed from. Its commitment is a hash over them and a
nonce; both are drawn from the campaign's secret, so that whoever has that can draw the seeds again, see that they are
those that were committed to, and train with them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from actors.evaluator.secret import Secret, SecretError
from actors.evaluator.tiers import FIRST_CEILING, FIRST_TEACHER, Tier, training_seed
from cluster.names import RunPaths
from cluster.wire import pack


def seeds_behind(secret: Secret, method: str, code_hash: str, tier: Tier, domain: str, count: int) -> list[int]:
    """The training seeds of a method's students, or of the teachers (`weak`) or ceilings of a reference record."""
    if code_hash:
        return [training_seed(secret, code_hash, tier, domain, index) for index in range(count)]
    role, first = ("teacher", FIRST_TEACHER) if method == "weak" else ("ceiling", FIRST_CEILING)
    return [secret.seed(role, domain, first[tier] + index) for index in range(count)]


def seed_commitment(secret: Secret, record: dict[str, Any]) -> str:
    """64 hexadecimal digits that bind to the seeds of a record (as plain data)."""
    who = (record["method"] if not record["code_hash"] else "", record["code_hash"], record["tier"], record["domain"])
    nonce = secret.draw("seed commitment", *who)
    seeds = seeds_behind(secret, *who, record["seeds"])
    return hashlib.sha256(pack([nonce, seeds])).hexdigest()


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
