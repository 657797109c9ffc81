"""What the trials of a domain need beside the campaign's own inputs, made once and shared by all methods.

A strong model without pretraining, with features and prior of its own; weak labels of a teacher that was trained on
coin flips; coin flips for the scored items. Nothing here is truth, and nothing is derived from it.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from actors.evaluator.jobs import features_step, initial_step, predict_step, protocol, truth_step, with_members
from actors.evaluator.lease_client import Joiner, keep_output, save_arrays, save_items
from actors.evaluator.reference_runs import Given, ReferenceRuns, Tools, weak_labels
from actors.evaluator.result_store import Usage
from actors.evaluator.splits import Split
from cluster.names import BASELINES_ACCOUNT
from gpu_pool.leases import LeaseResult, Step
from gpu_pool.weak_to_strong.folders import WEIGHTS, files_without_weights

Labels = dict[str, npt.NDArray[np.float32]]


class Material:
    """The shared inputs of one domain's trials, paid by the campaign."""

    def __init__(self, tools: Tools, shared: ReferenceRuns) -> None:
        self._t, self._shared = tools, shared
        self._join = Joiner()
        self._home = tools.folder / "audit"

    @property
    def random_strong(self) -> Path:
        """A folder like the strong model's, with fresh weights."""
        return self._home / "strong"

    @property
    def random_features(self) -> Path:
        """Hidden states of the unlabelled items by the fresh model."""
        return self._home / "features.safetensors"

    @property
    def random_prior(self) -> Path:
        """Its zero-shot prediction of them."""
        return self._home / "prior.safetensors"

    @property
    def null_labels(self) -> Path:
        """Labels of the unlabelled items by the teacher of coin flips."""
        return self._home / "weak-null.safetensors"

    def coins(self, split: Split) -> Split:
        """`split` with coin flips for labels."""
        rng = self._t.secret.generator("null truth", self._t.domain, split.name)
        return replace(split, labels=rng.integers(0, 2, len(split)).astype(np.int8))

    async def ready(self) -> None:
        """Have all of it made."""
        await self._join.once("material", self._make)

    async def _make(self) -> None:
        key = f"audit-material/{self._t.domain}"
        if self._t.result_store.get(key) is not None:
            return
        self._shared.write_items()
        self.random_strong.mkdir(mode=0o700, parents=True, exist_ok=True)
        given, weak = await self._shared.given(), await self._shared.models.model("weak")
        strong = given.strong
        sizes = self._t.sizes.own()
        with self._t.lease_client.files(key) as folder:
            steps = (*self._fresh_steps(given), *self._null_steps(weak, folder))
            seconds = sizes.lease_seconds(1) + 2 * sizes.predict_seconds
            result = await self._t.lease_client.run(self._shared.order(key, BASELINES_ACCOUNT, seconds, steps))
        await asyncio.to_thread(self._keep, strong, result)
        save_arrays(weak_labels(result.step("null-pool")), self.null_labels)
        usage = Usage.of([result]).to_dict()
        self._t.result_store.put(key, usage, usage)
        self._t.lease_client.discard([result])

    def _fresh_steps(self, given: Given) -> tuple[Step, Step]:
        """Draw the weights; then states and prior by them, and by the strong model's own texts and configuration."""
        strong, sizes = given.strong, self._t.sizes.own()
        initial = initial_step(strong, self._t.secret.seed("random strong", self._t.domain), sizes)
        features = features_step(strong, given.items, sizes)
        inputs = {"items.arrow": features.inputs["items.arrow"], f"model/{WEIGHTS}": f"@{initial.name}/{WEIGHTS}"}
        inputs |= {f"model/{path.name}": str(path) for path in files_without_weights(strong)}
        return initial, replace(features, inputs=inputs)

    def _keep(self, strong: Path, result: LeaseResult) -> None:
        for target in (self.random_features, self.random_prior):
            keep_output(result.step("features"), target)
        for path in files_without_weights(strong):
            shutil.copyfile(path, self.random_strong / path.name)
        weights = self.random_strong / WEIGHTS
        keep_output(result.step("initial"), weights)
        weights.chmod(
            0o644
        )  # its folder is private; a file like this may be linked into a sandbox and need not be copied

    def _null_steps(self, weak: Path, folder: Path) -> tuple[Step, Step]:
        split, sizes = self.coins(self._t.splits.split("train_label")), self._t.sizes.own()
        save_items(split.items, folder / "train.arrow")
        save_arrays({"labels": split.labels}, folder / "labels.safetensors")
        params = protocol(
            self._t.splits.domain.spec.teacher, self._t.secret.seed("null teacher", self._t.domain), sizes
        )
        inputs = {
            "model": weak,
            "items.arrow": folder / "train.arrow",
            "labels.safetensors": folder / "labels.safetensors",
        }
        return (
            truth_step("null-train", "teacher", inputs, params, sizes),
            with_members(predict_step("null-pool", "null-train", weak, self._shared.items_file, sizes)),
        )


def shuffled(labels: Labels, rng: np.random.Generator) -> Labels:
    """Weak labels `probs` (n, 2) and, where there are several teachers, `members` (n, k), dealt to other items."""
    order = rng.permutation(len(labels["probs"]))
    return {name: values[order] for name, values in labels.items()}


def inverted(labels: Labels) -> Labels:
    """Weak labels with the two answers exchanged."""
    turned = {name: 1 - values for name, values in labels.items()}
    return {**turned, "probs": np.ascontiguousarray(labels["probs"][:, ::-1])}


def save_rows(source: Path, rows: npt.NDArray[np.int64], target: Path) -> None:
    """The chosen rows of every array of a safetensors file, mode 0600."""
    save_arrays({name: values[rows] for name, values in load_file(source).items()}, target)
