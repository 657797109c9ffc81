"""What the trials of a domain need beside the campaign's own inputs, made once and shared by all methods.

A strong model without pretraining, with features and prior of its own; weak labels of a teacher that was trained on
coin flips; coin flips for the scored items. Nothing here is truth, and nothing is derived from it.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from actors.evaluator.desk import Joiner, keep_output, read_array, save_arrays, save_items
from actors.evaluator.jobs import PREDICT_SECONDS, features_step, predict_step, protocol, truth_step
from actors.evaluator.shared import BASELINES_ACCOUNT, SharedWork, Tools
from actors.evaluator.shelf import Usage
from actors.evaluator.truth import Split
from gpu_pool.leases import Step

INIT_STD = 0.02
"""Standard deviation of fresh weights in the configurations of the models that are used here (Qwen2, Qwen3, Llama)."""


class Material:
    """The shared inputs of one domain's trials, paid by the campaign."""

    def __init__(self, tools: Tools, shared: SharedWork) -> None:
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
        """Its zero-shot opinion of them."""
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
        if self._t.shelf.get(key) is not None:
            return
        self._shared.write_items()
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        strong, weak = await self._shared.models.model("strong"), await self._shared.models.model("weak")
        self._randomise(strong)
        with self._t.desk.files(key) as folder:
            steps = (features_step(self.random_strong, self._shared.items_file), *self._null_steps(weak, folder))
            seconds = self._t.sizes.own().lease_seconds(1) + PREDICT_SECONDS
            result = await self._t.desk.run(self._shared.order(key, BASELINES_ACCOUNT, seconds, steps))
        for target in (self.random_features, self.random_prior):
            keep_output(result.step("features"), target)
        probs = read_array(result.step("null-pool"), "probs.safetensors", "probs").astype(np.float32)
        save_arrays({"probs": probs}, self.null_labels)
        usage = Usage.of([result]).to_dict()
        self._t.shelf.put(key, usage, usage)
        self._t.desk.discard([result])

    def _null_steps(self, weak: Path, folder: Path) -> tuple[Step, Step]:
        split = self.coins(self._t.vault.split("train_label"))
        save_items(split.items, folder / "train.arrow")
        save_arrays({"labels": split.labels}, folder / "labels.safetensors")
        seconds = self._t.sizes.own().seed_seconds
        params = protocol(
            self._t.vault.domain.spec.teacher, self._t.secret.seed("null teacher", self._t.domain), seconds
        )
        inputs = {
            "model": weak,
            "items.arrow": folder / "train.arrow",
            "labels.safetensors": folder / "labels.safetensors",
        }
        return (
            truth_step("null-train", "teacher", inputs, params, seconds),
            predict_step("null-pool", "null-train", weak, self._shared.items_file),
        )

    def _randomise(self, strong: Path) -> None:
        """A copy of the model folder whose weights are drawn anew: matrices normal, norms one, biases zero."""
        self.random_strong.mkdir(mode=0o700, exist_ok=True)
        for path in strong.iterdir():
            if path.name != "model.safetensors":
                shutil.copyfile(path, self.random_strong / path.name)
        rng = self._t.secret.generator("random strong", self._t.domain)
        weights = {name: _fresh(name, value, rng) for name, value in load_file(strong / "model.safetensors").items()}
        save_file(weights, self.random_strong / "model.safetensors")


def _fresh(name: str, value: npt.NDArray[np.generic], rng: np.random.Generator) -> npt.NDArray[np.generic]:
    if value.ndim > 1:
        return (INIT_STD * rng.standard_normal(value.shape)).astype(value.dtype)
    return np.zeros_like(value) if name.endswith("bias") else np.ones_like(value)


def shuffled(probs: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The rows of `probs` (n, 2) in another order."""
    return probs[rng.permutation(len(probs))]


def inverted(probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """`probs` (n, 2) with the two labels exchanged."""
    return np.ascontiguousarray(probs[:, ::-1])


def save_rows(source: Path, rows: npt.NDArray[np.int64], target: Path) -> None:
    """The chosen rows of every array of a safetensors file, mode 0600."""
    save_arrays({name: values[rows] for name, values in load_file(source).items()}, target)
