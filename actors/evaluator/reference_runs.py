"""Shared work of one domain: what every method is measured with, done once and paid by the campaign.

Features and prior of the unlabelled items, weak teachers with their labels, ceilings. Teachers are numbered by tier and
serve all methods of that tier. Each piece is in the result store when it is complete; what runs at the same time is
only limited by what it needs: teachers need the weak model, features and ceilings the strong one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actors.evaluator.blinded_batch import BlindedBatch, make_blinded_batch
from actors.evaluator.disguise import Disguise, with_states
from actors.evaluator.jobs import MEMBERS, Sizes, features_step, predict_step, protocol, truth_step, with_members
from actors.evaluator.lease_client import (
    Joiner,
    LeaseClient,
    LeaseSpec,
    keep_output,
    read_array,
    save_arrays,
    save_items,
)
from actors.evaluator.models import Models
from actors.evaluator.result_store import ResultStore, ScoredRun, Usage
from actors.evaluator.secret import Secret
from actors.evaluator.splits import Splits
from actors.evaluator.statistics.variance import Hits
from actors.evaluator.tiers import Tier
from cluster.names import BASELINES_ACCOUNT
from cluster.trees import remove_tree
from gpu_pool.leases import Job, LeaseResult, Step, StepResult
from gpu_pool.weak_to_strong.items import ItemSet


@dataclass(frozen=True, slots=True)
class Tools:
    """What all work of a domain needs at hand."""

    splits: Splits
    secret: Secret
    lease_client: LeaseClient
    result_store: ResultStore
    sizes: Sizes
    folder: Path
    """Private files that live as long as the campaign: unlabelled items, features, weak labels. No truth."""
    disguise: Disguise | None = None
    """What methods and their students see instead of a generated domain's words and numbers; none: all as it is."""
    title: str = ""
    """What this work is called in the result store and in draws from the secret; empty: the domain's name."""

    def shown(self, items: ItemSet) -> ItemSet:
        """Items as methods and their students see them."""
        return items if self.disguise is None else self.disguise.items(items)

    @property
    def domain(self) -> str:
        """The domain's name, or another title."""
        return self.title or self.splits.domain.name


@dataclass(frozen=True, slots=True)
class Given:
    """What a method is given beside weak labels: the strong model's folder and files of the unlabelled items."""

    strong: Path
    items: Path
    features: Path
    prior: Path


class ReferenceRuns:
    """Features, teachers and ceilings of one domain."""

    def __init__(self, tools: Tools, models: Models) -> None:
        self._t = tools
        self.models = models
        self._join = Joiner()

    @property
    def items_file(self) -> Path:
        """The unlabelled items (pool A, then pool B)."""
        return self._t.folder / "items.arrow"

    def weak_file(self, teacher: int) -> Path:
        """A teacher's labels of the unlabelled items: `probs` (n, 2)."""
        return self._t.folder / f"weak-{teacher}.safetensors"

    @property
    def features_file(self) -> Path:
        """The strong model's hidden states of the unlabelled items."""
        return self._t.folder / "features.safetensors"

    @property
    def prior_file(self) -> Path:
        """The strong model's zero-shot prediction of the unlabelled items."""
        return self._t.folder / "prior.safetensors"

    def write_items(self) -> None:
        """Write the unlabelled items; called before anything else, and the same every time."""
        self._t.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.items_file.exists():
            partial = self.items_file.with_suffix(".partial")
            save_items(self._t.splits.unlabelled().items, partial)
            partial.rename(self.items_file)

    def control(self, label: str, given: Given) -> LeaseSpec:
        """Work without foreign code that shows whether the cluster can carry out anything (see `LeaseClient.run`)."""
        step, seconds = features_step(given.strong, given.items, self._t.sizes), self._t.sizes.predict_seconds
        return self.order(f"control/{label}", BASELINES_ACCOUNT, seconds, (step,))

    async def features(self) -> None:
        """Have `features_file` and `prior_file` made."""
        await self._join.once("features", self._features)

    async def _features(self) -> None:
        key = f"features/{self._t.domain}"
        if self._t.result_store.get(key) is not None:
            return
        self.write_items()
        sizes = self._t.sizes
        step = features_step(await self.models.model("strong"), self.items_file, sizes)
        result = await self._t.lease_client.run(self.order(key, BASELINES_ACCOUNT, sizes.predict_seconds, (step,)))
        for target in (self.features_file, self.prior_file):
            await asyncio.to_thread(keep_output, result.step("features"), target)
        usage = Usage.of([result]).to_dict()
        self._t.result_store.put(key, usage, usage)
        self._t.lease_client.discard([result])

    async def given(self) -> Given:
        """What methods train on: the shared files, or their disguise."""
        await self.features()
        return await self._join.once("given", self._given)

    async def _given(self) -> Given:
        strong, disguise = await self.models.model("strong"), self._t.disguise
        if disguise is None:
            return Given(strong, self.items_file, self.features_file, self.prior_file)
        home = self._t.folder / "disguised"
        given = Given(home / "strong", home / "items.arrow", home / "features.safetensors", self.prior_file)
        if not home.exists():
            partial = home.with_suffix(".partial")
            remove_tree(partial)
            partial.mkdir(mode=0o700)
            disguise.model(strong, partial / given.strong.name)
            save_items(disguise.items(self._t.splits.unlabelled().items), partial / given.items.name)
            with_states(self.features_file, partial / given.features.name, disguise)
            partial.rename(home)
        return given

    async def teachers(self, tier: Tier, numbers: Sequence[int]) -> ScoredRun:
        """Train the teachers of `tier` and score them on its items (one row each)."""
        key = f"weak/{self._t.domain}/{tier}"
        return await self._join.once(key, lambda: self._teachers(key, tier, list(numbers)))

    async def _teachers(self, key: str, tier: Tier, numbers: list[int]) -> ScoredRun:
        found = self._t.result_store.run(key)
        if found is not None:
            return found
        self.write_items()
        model = await self.models.model("weak")
        chunks = self._t.sizes.chunks(numbers)
        done = await asyncio.gather(*(self._teach(key, model, tier, chunk) for chunk in chunks))
        results = [result for result, _ in done]
        run = ScoredRun(np.concatenate([rows for _, rows in done]), {}, Usage.of(results))
        self._t.result_store.put_run(key, run)
        self._t.lease_client.discard(results)
        return run

    async def _teach(self, key: str, model: Path, tier: Tier, numbers: list[int]) -> tuple[LeaseResult, Hits]:
        label = f"{key}/{numbers[0]}-{numbers[-1]}"
        truth, split = self._t.splits.split("train_label"), self._t.splits.split(tier)
        spec, sizes = self._t.splits.domain.spec.teacher, self._t.sizes.own()
        batches = {n: make_blinded_batch(self._t.secret, split, "teacher", self._t.domain, tier, n) for n in numbers}
        with self._t.lease_client.files(label) as folder:
            save_items(truth.items, folder / "train.arrow")
            save_arrays({"labels": truth.labels}, folder / "labels.safetensors")
            inputs = {
                "model": model,
                "items.arrow": folder / "train.arrow",
                "labels.safetensors": folder / "labels.safetensors",
            }
            steps: list[Step] = []
            for n, batch in batches.items():
                save_items(batch.items, folder / f"sheet-{n}.arrow")
                params = protocol(spec, self._t.secret.seed("teacher", self._t.domain, n), sizes)
                train = truth_step(f"teacher-{n}-train", "teacher", inputs, params, sizes)
                steps += [
                    train,
                    with_members(predict_step(f"teacher-{n}-pool", train.name, model, self.items_file, sizes)),
                    predict_step(f"teacher-{n}-sheet", train.name, model, folder / f"sheet-{n}.arrow", sizes),
                ]
            order = self.order(label, BASELINES_ACCOUNT, sizes.lease_seconds(len(numbers)), tuple(steps))
            result = await self._t.lease_client.run(order)
        rows = []
        for n, batch in batches.items():
            pool = result.step(f"teacher-{n}-pool")
            save_arrays(weak_labels(pool), self.weak_file(n))
            answers = read_array(result.step(f"teacher-{n}-sheet"), "probs.safetensors", "probs")
            rows.append(batch.hits(answers, split))
        return result, np.stack(rows)

    async def ceilings(self, numbers: Sequence[int], tiers: Sequence[Tier], account: str) -> None:
        """Train ceilings on the truth of the unlabelled items and score them on the items of each of `tiers`."""
        key = f"ceiling/{self._t.domain}/{'+'.join(tiers)}"
        await self._join.once(key, lambda: self._ceilings(key, list(numbers), list(tiers), account))

    async def _ceilings(self, key: str, numbers: list[int], tiers: list[Tier], account: str) -> None:
        if all(self.ceiling(tier) is not None for tier in tiers):
            return
        self.write_items()
        model = await self.models.model("strong")
        chunks = self._t.sizes.chunks(numbers)
        done = await asyncio.gather(*(self._ceil(key, model, tiers, chunk, account) for chunk in chunks))
        results = [result for result, _ in done]
        for tier in tiers:
            hits = np.concatenate([rows[tier] for _, rows in done])
            self._t.result_store.put_run(f"ceiling/{self._t.domain}/{tier}", ScoredRun(hits, {}, Usage.of(results)))
        self._t.lease_client.discard(results)

    def ceiling(self, tier: Tier) -> ScoredRun | None:
        """The ceilings' score on a tier, if it is known."""
        return self._t.result_store.run(f"ceiling/{self._t.domain}/{tier}")

    async def _ceil(
        self, key: str, model: Path, tiers: list[Tier], numbers: list[int], account: str
    ) -> tuple[LeaseResult, dict[Tier, Hits]]:
        label = f"{key}/{numbers[0]}-{numbers[-1]}"
        truth, spec, sizes = self._t.splits.unlabelled(), self._t.splits.domain.spec.student, self._t.sizes.own()
        batches: dict[tuple[int, Tier], BlindedBatch] = {
            (n, tier): make_blinded_batch(
                self._t.secret, self._t.splits.split(tier), "ceiling", self._t.domain, tier, n
            )
            for n in numbers
            for tier in tiers
        }
        with self._t.lease_client.files(label) as folder:
            save_arrays({"labels": truth.labels}, folder / "labels.safetensors")
            inputs = {"model": model, "items.arrow": self.items_file}
            inputs["labels.safetensors"] = folder / "labels.safetensors"
            steps: list[Step] = []
            for n in numbers:
                params = protocol(spec, self._t.secret.seed("ceiling", self._t.domain, n), sizes)
                steps.append(truth_step(f"ceiling-{n}-train", "ceiling", inputs, params, sizes))
                for tier in tiers:
                    file = folder / f"sheet-{n}-{tier}.arrow"
                    save_items(batches[n, tier].items, file)
                    steps.append(predict_step(f"ceiling-{n}-{tier}", f"ceiling-{n}-train", model, file, sizes))
            order = self.order(label, account, sizes.lease_seconds(len(numbers)), tuple(steps))
            result = await self._t.lease_client.run(order)
        rows: dict[Tier, list[Hits]] = {tier: [] for tier in tiers}
        for (n, tier), batch in batches.items():
            answers = read_array(result.step(f"ceiling-{n}-{tier}"), "probs.safetensors", "probs")
            rows[tier].append(batch.hits(answers, self._t.splits.split(tier)))
        return result, {tier: np.stack(found) for tier, found in rows.items()}

    def order(self, label: str, account: str, seconds: float, steps: tuple[Step, ...]) -> LeaseSpec:
        """A lease of the evaluator's own work."""
        sizes = self._t.sizes
        return LeaseSpec(label, account, "baseline", sizes.gpus, seconds, sizes.memory_bytes, Job(steps))


def weak_labels(pool: StepResult) -> dict[str, npt.NDArray[np.float32]]:
    """What a teacher says of the pool: `probs` (n, 2) and, of one with several members, `members` (n, k)."""
    labels = {"probs": read_array(pool, "probs.safetensors", "probs").astype(np.float32)}
    if MEMBERS in pool.outputs:
        labels["members"] = read_array(pool, MEMBERS, "members").astype(np.float32)
    return labels
