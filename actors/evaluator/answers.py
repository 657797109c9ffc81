"""What leaves the evaluator towards researchers: answers and the public side of records. Pure.

A record holds exact figures; a researcher sees them only for baselines and after SEAL. Of a DEV record it sees the
noised mean that its answer showed, of a BOARD record the level if it was a new best. An answer is remade from its
record, never from a run.

Every answer has the same size, and what it says of an error is one of a few words: a method sees pool B when it is
trained, and may not tell anybody.
"""

from __future__ import annotations

import math
from typing import Any

from actors.evaluator.records import Record
from actors.evaluator.result_store import ScoredRun
from actors.evaluator.scoring import ReferenceScores
from actors.evaluator.secret import Secret
from actors.evaluator.tiers import answered_mean, dev_accuracy
from cluster.config import Scoring
from cluster.names import CAMPAIGN
from cluster.wire import pack
from gpu_pool.weak_to_strong.pgr import pgr

REPLY_BYTES = 1024
_SHORT_TEXT, _LONG_TEXT = 256, 2
"""msgpack spends two bytes more on the length of a text of 256 characters and more than on that of an empty one."""
_SHOWN = ("record_id", "method", "researcher", "tier", "domain", "seeds", "n", "sandbox_grade", "code_hash", "snapshot")


def rounded(value: float, digits: int) -> float | None:
    """`value` rounded, or `None` when it is not finite."""
    return round(value, digits) if math.isfinite(value) else None


def dev_answer(
    secret: Secret, scoring: Scoring, bench: ReferenceScores, run: ScoredRun, record: Record, used: int, identity: str
) -> dict[str, Any]:
    """The answer to a DEV submission: accuracy and PGR from the noised mean, never exact.

    The noise is drawn for `identity`: that of the method, or of the first one that says the same.
    """
    mean = answered_mean(run.hits, bench.canaries)
    shown = dev_accuracy(secret, identity, record.domain, mean, scoring)
    weak, ceiling = bench.weak.mean, bench.ceiling.mean
    vanilla = bench.baselines["vanilla"][1].mean
    return {
        "tier": "dev",
        "name": record.method,
        "accuracy": shown,
        "pgr": rounded(pgr(shown, weak, ceiling), 2),
        "vanilla_pgr": rounded(pgr(vanilla, weak, ceiling), 2),
        "seeds": len(run.hits),
        "failed_seeds": len(run.failures),
        "error": next(iter(run.failures.values()), ""),
        "record_id": record.record_id,
        "wear": {"used": used, "limit": scoring.dev_limit},
    }


def board_answer(
    record: Record, level: float | None, level_as_pgr: float | None, used: int, limit: int
) -> dict[str, Any]:
    """The answer to a BOARD submission: a new best and its level, or no."""
    return {
        "tier": "board",
        "name": record.method,
        "new_best": level is not None,
        "level": None if level is None else round(level, 4),
        "pgr": level_as_pgr,
        "record_id": record.record_id,
        "wear": {"used": used, "limit": limit},
    }


def copied(answer: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """The answer to a method that says what another one said, whose answer is `first`: its figures, and whose they are.

    A copy is no new best: the one that it copies was, or was not.
    """
    if answer["tier"] == "dev":
        figures = {"accuracy": first["accuracy"], "pgr": first["pgr"]}
    else:
        figures = {"new_best": False, "level": None, "pgr": None}
    return {**answer, **figures, "same_as": first["record_id"]}


def sized(answer: dict[str, Any]) -> dict[str, Any]:
    """`answer` with a `pad` that makes its encoding `REPLY_BYTES` long, whatever it says."""
    room = REPLY_BYTES - len(pack({**answer, "pad": ""})) - _LONG_TEXT
    assert room >= _SHORT_TEXT, "an answer is made of short fields"
    return {**answer, "pad": " " * room}


def public_record(record: Record, answer: dict[str, Any] | None) -> dict[str, Any]:
    """The side of a record that anyone may see; `answer` is what its submitter was told, if there was one."""
    shown = {name: getattr(record, name) for name in _SHOWN}
    if record.tier == "seal" or record.researcher == CAMPAIGN:
        exact = {"accuracy": record.accuracy, "pgr": record.pgr, "interval": record.interval}
        return {**shown, **exact, "status": record.status, "standing": record.standing}
    if answer is None:
        return {**shown, "accuracy": None, "pgr": None, "interval": None, "status": "not shown"}
    if record.tier == "dev":
        word = f"dev, noised, says what {answer['same_as']} says" if "same_as" in answer else "dev, noised"
        figures = {"accuracy": answer["accuracy"], "pgr": answer["pgr"], "status": word}
    else:
        word = "new best at its time" if answer["new_best"] else "no new best"
        word = f"{word}: says what {answer['same_as']} says" if "same_as" in answer else word
        figures = {"accuracy": answer["level"], "pgr": answer["pgr"], "status": word}
    return {**shown, **figures, "interval": None}
