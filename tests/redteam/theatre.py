"""A tiny campaign on a stage, driven from tests that know no event loop."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from cluster.config import CampaignConfig, load_config
from cluster.wire import unpack
from gpu_pool.leases import LeaseResult
from gpu_pool.weak_to_strong.domains import Domain
from tests.redteam.stage import Stage
from tests.unit.weak_to_strong.conftest import tiny_domain

T = TypeVar("T")
RESEARCHERS = {"01-a": 40, "02-b": 3, **{f"{n:02d}-s": 40 for n in range(3, 13)}}
"""Answers by researcher: one with room, one with little, ten sybils."""


def tiny(name: str) -> Domain:
    """A world of a few dozen words with small pools."""
    domain: Any = tiny_domain(name)
    domain.spec = dataclasses.replace(domain.spec, labelled=40, unlabelled=60, test=80)
    found: Domain = domain
    return found


def settings(cache: Path, *, disguise: bool = True) -> CampaignConfig:
    """Few seeds, a cache of its own (the tiny models must never be taken for the shipped ones)."""
    return load_config(
        preset="quickstart",
        overrides=(
            f"pool.cache_dir={cache}",
            "pool.sandbox_reuse=wiped",
            f"scoring.disguise={str(disguise).lower()}",
            "scoring.board_seeds=2",
            "scoring.dev_limit=60",
            "scoring.board_limit=8",
            "scoring.reply_seconds=0",
            "runs.seed_seconds=120",
        ),
    )


class Theatre:
    """One prepared campaign. Tests share it and its budgets: each uses names and accounts of its own."""

    def __init__(self, root: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.stage = Stage(root / "runs" / "redteam", settings(root / "cache"), tiny)
        self.do(self.stage.open(RESEARCHERS))
        self.do(self.stage.evaluator.prepare())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def submit(
        self, source: str, who: str = "01-a", tier: str = "dev", key: str = "", **beside: bytes
    ) -> dict[str, Any]:
        """The answer to a method file, with more files `beside` it (`x_py` is x.py)."""
        files = {"method.py": source.encode(), **{k.replace("_py", ".py"): data for k, data in beside.items()}}
        return self.submit_tree(self.stage.objects.put_tree(files), who, tier, key)

    def submit_tree(self, snapshot: str, who: str = "01-a", tier: str = "dev", key: str = "") -> dict[str, Any]:
        """The answer to a snapshot."""
        key = key or f"{who}/{tier}/{snapshot}"
        return self.do(self.stage.evaluator.submit(key, who, snapshot, "a method", tier))

    def said(self, answer: dict[str, Any]) -> str:
        """The first line of what a method said when its training failed: in its lease, not in the answer."""
        record = self.stage.evaluator.record(answer["record_id"])
        assert record is not None
        path = self.stage.paths.leases / record["lease_ids"][0] / "result.msgpack"
        result = LeaseResult.from_dict(unpack(path.read_bytes(), 16 << 20))
        return next(step.error.splitlines()[0] for step in result.steps if step.error)

    def answers_left(self, who: str) -> int:
        """What is left of a researcher's answers."""
        left = self.do(self.stage.client.balance(f"campaign/researcher/{who}/evaluations")).left.answers
        assert left is not None
        return left

    def close(self) -> None:
        self.do(self.stage.close())
        self.loop.close()
