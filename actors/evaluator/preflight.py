"""Tasks from files, looked through before any actor starts: items, pools, both models, and whether sizes fit limits.

Reads labels, so it runs where the driver runs and gives back notes for people only. Imports torch and transformers; no
weights are loaded. Whatever is wrong is named by the field of the configuration that it came from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForCausalLM

from actors.evaluator.file_domain import FileDomain, read_domain
from actors.evaluator.file_splits import TIER_MOST, TIER_SHARE, Pool
from actors.evaluator.given import asked, source
from actors.evaluator.models import Which
from actors.evaluator.pools import file_pools
from actors.evaluator.secret import KEY_BYTES, Secret
from cluster.config import CampaignConfig, ConfigError, Training
from cluster.sandbox import python_binds
from gpu_pool.cache import NodeCache
from gpu_pool.weak_to_strong.errors import W2SError
from gpu_pool.weak_to_strong.folders import resolve, weight_files
from gpu_pool.weak_to_strong.models import LabelModel, lora, texts, weights

_MIB, _GIB = 1 << 20, 1 << 30
_FLOAT = 4
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/alternatives")


@dataclass(frozen=True, slots=True)
class _Looked:
    """A model without weights, and where its folder is."""

    model: LabelModel
    folder: Path


def check_files(config: CampaignConfig) -> list[str]:
    """Notes on the tasks from files, such as items that were dropped. Raises `ConfigError` for what cannot be run."""
    notes: list[str] = []
    for name, about in config.task.from_files().items():
        field = f"task.files.{name}"
        _outside_sandboxes(f"{field}.path", about.path, NodeCache.of(config.pool).root)
        with _named(f"{field}.path"):
            domain = read_domain(config.task, name)
            assert isinstance(domain, FileDomain), "files hide the generated domain of their name"
            made = file_pools(domain.task, Secret(os.urandom(KEY_BYTES)), name, config.scoring.shortcuts)
            pools = made.pools
        sizes = ", ".join(f"{pool} {len(made.items)}" for pool, made in pools.items())
        notes += [f"{name}: {note}" for note in domain.task.notes] + [f"{name}: {sizes} items", made.report.line(name)]
        with _named(f"{field}.weak"):
            weak = _look(domain, "weak")
        with _named(f"{field}.strong"):
            strong = _look(domain, "strong")
            if strong.model.readout == "head":
                raise ConfigError(
                    f"{field}.strong: {about.strong} predicts no next token and so has no zero-shot prediction; "
                    "expected a causal language model (an encoder can be the weak model)"
                )
        teacher = f"{field}.teacher" if about.teacher is not None else f"{field}.protocol"
        _check_student(config, teacher, domain.spec.teacher, weak.model)
        _check_student(config, f"{field}.protocol", domain.spec.student, strong.model)
        _check_sizes(config, name, strong, _most_unlabelled(pools))
        for which, looked in (("weak", weak), ("strong", strong)):
            with _named(f"{field}.{which}"):
                notes += _cut(name, which, looked.model, pools)
    return notes


def _most_unlabelled(pools: dict[str, Pool]) -> int:
    """Items that methods train on at most, whatever the secret: where questions are large, pools of one secret are
    larger than those of another.
    """
    carved = sum(len(pools[pool].items) for pool in ("dev", "board", "pool_a", "pool_b"))
    return carved - 2 * min(TIER_MOST, int(TIER_SHARE * carved))


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Errors of the library as errors of a field of the configuration."""
    try:
        yield
    except W2SError as error:
        raise ConfigError(f"{field}: {error}") from error


def _outside_sandboxes(field: str, path: str, cache: Path) -> None:
    """Labels may not lie where every sandbox can read."""
    if path.startswith("hub:"):
        return
    place = Path(path).resolve()
    for shown in (str(cache), *_SYSTEM, *(bind.host for bind in python_binds())):
        if place.is_relative_to(Path(shown).resolve()):
            raise ConfigError(
                f"{field}: {path} holds labels and lies in {shown}, which sandboxes see; move it elsewhere"
            )


def _look(domain: FileDomain, which: Which) -> _Looked:
    """The model as it will be asked, on torch's meta device: label tokens, chat template and length are checked."""
    where = source(domain, which)
    folder = resolve(where)
    config = weights.read_config(folder)
    weight_files(folder)
    encoder, fmt = weights.is_encoder(config), asked(domain, which, folder)
    positions = getattr(config, "max_position_embeddings", None)
    if fmt.max_length is not None and positions is not None and fmt.max_length > positions:
        raise ConfigError(
            f"task.files.{domain.name}.max_length: {fmt.max_length} is more than the {positions} positions of {where}; "
            f"expected at most {positions}"
        )
    with torch.device("meta"):
        lm = (AutoModel if encoder else AutoModelForCausalLM).from_config(config)  # type: ignore[no-untyped-call]
    model = LabelModel(
        lm,
        texts.load_tokenizer(folder),
        domain.kind,
        fmt,
        readout="head" if encoder else "labels",
        max_length=fmt.max_length or positions,
    )
    return _Looked(model, folder)


def _student_bytes(model: LabelModel, training: Training) -> int:
    """Bytes of a student that was trained so: float32, label rows of its own included. Raises `ModelError`."""
    if training.trainable.startswith("lora:"):
        rank = int(training.trainable.removeprefix("lora:"))
        numbers = sum(rank * (wide + tall) for wide, tall in lora.targets(model.lm).values())
    else:
        numbers = sum(parameter.numel() for parameter in model.moving(training.trainable))
    return _FLOAT * training.members * (numbers + 2 * model.width)


def _check_student(config: CampaignConfig, field: str, training: Training, model: LabelModel) -> None:
    with _named(f"{field}.trainable"):
        need = _student_bytes(model, training)
    if need > config.runs.student_mb * _MIB:
        raise ConfigError(
            f"runs.student_mb: {config.runs.student_mb} cannot hold a student of {field} "
            f"({training.trainable}: {need / _MIB:.0f} MiB); expected at least {need // _MIB + 2}, or another trainable"
        )


def _check_sizes(config: CampaignConfig, name: str, strong: _Looked, items: int) -> None:
    """What is written once for all runs fits the limit of a file, and the states fit a lease's memory."""
    model = strong.model
    states = _FLOAT * items * (model.layers + 1) * model.width
    fresh = sum(file.stat().st_size for file in weight_files(strong.folder))
    for what, need in ((f"the strong model's states of {items} items", states), ("the strong model's weights", fresh)):
        if need > config.pool.file_bytes:
            raise ConfigError(
                f"pool.file_gb: {config.pool.file_gb:g} cannot hold {what} of task {name} ({need / _GIB:.2f} GiB); "
                f"expected at least {need / _GIB + 0.1:.1f}"
            )
    if states > config.pool.memory_bytes:
        raise ConfigError(
            f"pool.memory_gb: {config.pool.memory_gb:g} cannot hold the strong model's states of {items} items of task "
            f"{name} ({states / _GIB:.2f} GiB); expected more than that"
        )


def _cut(name: str, which: str, model: LabelModel, pools: dict[str, Pool]) -> Iterator[str]:
    """A note when texts are longer than the model takes."""
    cut = sum(model.tokenize(pool.items).truncated for pool in pools.values())
    if cut:
        total = sum(len(pool.items) for pool in pools.values())
        yield f"{name}: {cut} of {total} texts are cut to the {model.max_length} tokens of the {which} model"
