"""The jobs of the evaluator's leases, as plain steps. Names of files and parameters are those of the library's entries.

Truth reaches two entries only, `teacher` and `ceiling`, as the path of a private file; `method` gets unlabelled items
and weak labels; `predict` gets scored items and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cluster.config import CampaignConfig, Training
from gpu_pool.leases import Entry, Step
from gpu_pool.weak_to_strong.folders import WEIGHTS

PROBS_BYTES = 8 << 20
MEMBERS = "members.safetensors"
MODEL_BYTES = 64 << 20
DEADLINE_SHARE = 0.9
OWN_PATIENCE = 4.0
"""The evaluator's own training may take so many times a method's limit: its length is known, the machine's load is not,
and a campaign without teachers is none. A method's limit is part of the task and stays."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the configuration grants to counted work. Seconds of wall time, bytes, fraction of a GPU."""

    gpus: float
    memory_bytes: int
    seed_seconds: float
    pretrain_seconds: float
    seeds_per_lease: int
    predict_seconds: float
    slack_seconds: float
    student_bytes: int
    file_bytes: int

    @classmethod
    def of(cls, config: CampaignConfig) -> Sizes:
        """The sizes of a campaign."""
        return cls(
            gpus=config.runs.full_gpus,
            memory_bytes=config.pool.memory_bytes,
            seed_seconds=config.runs.seed_seconds,
            pretrain_seconds=config.runs.pretrain_seconds,
            seeds_per_lease=config.scoring.seeds_per_lease,
            predict_seconds=config.runs.predict_seconds,
            slack_seconds=config.runs.slack_seconds,
            student_bytes=config.runs.student_mb << 20,
            file_bytes=config.pool.file_bytes,
        )

    def own(self) -> Sizes:
        """The sizes for teachers, ceilings and baselines."""
        return replace(self, seed_seconds=OWN_PATIENCE * self.seed_seconds)

    def lease_seconds(self, seeds: int) -> float:
        """The wall limit of a lease that trains `seeds` students."""
        return seeds * self.seed_seconds + self.slack_seconds

    def chunks(self, numbers: Sequence[int]) -> list[list[int]]:
        """`numbers` in groups of one lease each."""
        size = self.seeds_per_lease
        return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def protocol(training: Training, seed: int, sizes: Sizes) -> dict[str, Any]:
    """Parameters of a training step: the task's fixed protocol, the evaluator's seed, a deadline before the limit."""
    return {**training.model_dump(mode="json"), "seed": seed, "seconds": DEADLINE_SHARE * sizes.seed_seconds}


def pretrain_step(folder: Path, params: dict[str, Any], seconds: float) -> Step:
    """Pretrain a model from the files in `folder`."""
    names = ("corpus.safetensors", "model_config.json", "tokenizer.json", "prompt.json")
    inputs = {name: str(folder / name) for name in names}
    outputs = {"model.safetensors": MODEL_BYTES, "config.json": 1 << 20}
    return Step("pretrain", "pretrain", inputs, {**params, "seconds": DEADLINE_SHARE * seconds}, outputs, seconds)


def features_step(model: Path, items: Path, sizes: Sizes) -> Step:
    """Hidden states and zero-shot prior of the strong model on the unlabelled items."""
    inputs = {"model": str(model), "items.arrow": str(items)}
    outputs = {"features.safetensors": sizes.file_bytes, "prior.safetensors": PROBS_BYTES}
    return Step("features", "features", inputs, {}, outputs, sizes.predict_seconds)


def initial_step(model: Path, seed: int, sizes: Sizes) -> Step:
    """Weights of a model's architecture, drawn anew."""
    return Step("initial", "initial", {"model": str(model)}, {"seed": seed}, {WEIGHTS: sizes.file_bytes},
                sizes.predict_seconds)  # fmt: skip


def truth_step(
    name: str, entry: Literal["teacher", "ceiling"], inputs: dict[str, Path], params: dict[str, Any], sizes: Sizes
) -> Step:
    """Train a teacher or a ceiling; `inputs` are `model`, `items.arrow` and `labels.safetensors`."""
    return _training_step(name, entry, inputs, params, sizes)


def method_step(name: str, inputs: dict[str, Path], params: dict[str, Any], sizes: Sizes) -> Step:
    """Train a student by a method; `inputs` are `code`, `strong`, the unlabelled items, weak labels and shared work."""
    return _training_step(name, "method", inputs, params, sizes)


def _training_step(name: str, entry: Entry, inputs: dict[str, Path], params: dict[str, Any], sizes: Sizes) -> Step:
    paths = {key: str(path) for key, path in inputs.items()}
    return Step(name, entry, paths, params, {"student.safetensors": sizes.student_bytes}, sizes.seed_seconds)


def predict_step(name: str, trained: str, model: Path, items: Path, sizes: Sizes) -> Step:
    """Apply the student of step `trained` to an item file."""
    inputs = {
        "student.safetensors": f"@{trained}/student.safetensors",
        "model": str(model),
        "items.arrow": str(items),
    }
    return Step(name, "predict", inputs, {}, {"probs.safetensors": PROBS_BYTES}, sizes.predict_seconds)


def with_members(step: Step) -> Step:
    """The step, asked for what each member of an ensemble says as well, where the student is one."""
    return replace(step, outputs={**step.outputs, MEMBERS: PROBS_BYTES}, optional=(MEMBERS,))
