"""The steps of a lease: each reads files from `in_dir`, writes files to `out_dir`, gives a dictionary of numbers.

    pretrain  reads corpus.safetensors (`tokens` int32), model_config.json, tokenizer.json, prompt.json (optional)
              writes config.json, model.safetensors, tokenizer.json, prompt.json
    teacher   reads model/, items.arrow, labels.safetensors (`labels` (n,) of 0 and 1); writes student.safetensors
    ceiling   the same
    method    reads code/method.py and its modules, items.arrow, weak.safetensors (`probs` (n, 2), `members` (n, k) when
              there are several teachers), strong/, and when there features.safetensors, prior.safetensors; writes
              student.safetensors
    predict   reads student.safetensors, model/, items.arrow; writes probs.safetensors (`probs` float32 (n, 2)), and of
              an ensemble of k members.safetensors (`members` float32 (n, k))
    features  reads model/, items.arrow; writes features.safetensors (`hidden` float32 (n, layers + 1, d)) and
              prior.safetensors (`prior` float32 (n,))
    initial   reads model/config.json; writes model.safetensors, fresh weights of that architecture

`log(message, **numbers)` reports progress. Only `method` runs foreign code: it belongs in a sandbox.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gpu_pool.weak_to_strong.errors import ItemError, MethodError
from gpu_pool.weak_to_strong.folders import WEIGHTS
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.methods.ceiling import train_ceiling
from gpu_pool.weak_to_strong.methods.teacher import train_teacher
from gpu_pool.weak_to_strong.models import LabelModel, initial_lm, save_weights
from gpu_pool.weak_to_strong.models.weights import stored_dtype
from gpu_pool.weak_to_strong.pretrain import pretrain_model
from gpu_pool.weak_to_strong.rng import global_streams
from gpu_pool.weak_to_strong.run import Log, MethodRun, PlaceParams, RunParams
from gpu_pool.weak_to_strong.student import Student

Metrics = dict[str, float]
Entry = Callable[[Path, Path, dict[str, Any], Log], Metrics]


def pretrain(in_dir: Path, out_dir: Path, params: dict[str, Any], log: Log) -> Metrics:
    """Pretrain a model from a corpus; `params` as in `pretrain.PretrainParams`."""
    start = time.monotonic()

    def progress(step: int, steps: int, loss: float) -> None:
        log("step", step=step, steps=steps, loss=loss)

    loss = pretrain_model(in_dir, out_dir, params, progress)
    return {"loss": loss, "seconds": time.monotonic() - start}


def teacher(in_dir: Path, out_dir: Path, params: dict[str, Any], log: Log) -> Metrics:
    """Train the weak teacher on truth; `params` as in `run.RunParams`."""
    return _on_truth(train_teacher, in_dir, out_dir, params, log)


def ceiling(in_dir: Path, out_dir: Path, params: dict[str, Any], log: Log) -> Metrics:
    """Train the strong ceiling on truth; `params` as in `run.RunParams`."""
    return _on_truth(train_ceiling, in_dir, out_dir, params, log)


def method(in_dir: Path, out_dir: Path, params: dict[str, Any], log: Log) -> Metrics:
    """Run a method file; `params` as in `run.RunParams`. Raises MethodError when it does not keep the contract."""
    start = time.monotonic()
    try:
        seed = RunParams.model_validate(params).seed
    except ValidationError as error:
        raise MethodError(f"parameters {params}: {error}") from error
    with global_streams(seed):
        train = load_method(in_dir / "code").train
        run = MethodRun.from_dir(in_dir, params, log)
        _set_threads(run.threads)
        student = train(run)
    if not isinstance(student, Student):
        raise MethodError(f"train() returned {type(student).__name__}, expected a Student")
    student.save(out_dir / "student.safetensors")
    return {"seconds": time.monotonic() - start}


def predict(in_dir: Path, out_dir: Path, params: dict[str, Any], log: Log) -> Metrics:
    """A student's probabilities of items; `params` as in `run.PlaceParams`."""
    start = time.monotonic()
    place = _place(params)
    items = ItemSet.load(in_dir / "items.arrow")
    model = LabelModel.load(in_dir / "model", items.kind, device=place.device)
    student = Student.load(in_dir / "student.safetensors", model)
    opinions = student.opinions(items)
    save_file({"probs": student.pool(opinions)}, out_dir / "probs.safetensors")
    if opinions.shape[1] > 1:
        save_file({"members": opinions.astype(np.float32)}, out_dir / "members.safetensors")
    log("predicted", items=len(items))
    return {"items": float(len(items)), "seconds": time.monotonic() - start}


def features(in_dir: Path, out_dir: Path, params: dict[str, Any], log: Log) -> Metrics:
    """A model's states at the last position and its zero-shot prior; `params` as in `run.PlaceParams`."""
    start = time.monotonic()
    place = _place(params)
    items = ItemSet.load(in_dir / "items.arrow")
    model = LabelModel.load(in_dir / "model", items.kind, device=place.device)
    save_file({"hidden": model.hidden(items)}, out_dir / "features.safetensors")
    save_file({"prior": model.zero_shot(items)}, out_dir / "prior.safetensors")
    log("features", items=len(items))
    return {"items": float(len(items)), "seconds": time.monotonic() - start}


def initial(in_dir: Path, out_dir: Path, params: dict[str, Any], log: Log) -> Metrics:
    """Fresh weights for model/'s configuration by `params["seed"]`, in the type of the weights that lie there."""
    start = time.monotonic()
    seed, folder = int(params["seed"]), in_dir / "model"
    save_weights(initial_lm(folder / "config.json", seed, stored_dtype(folder)), out_dir / WEIGHTS)
    log("initialised", seed=seed)
    return {"seconds": time.monotonic() - start}


ENTRIES: dict[str, Entry] = {
    "pretrain": pretrain,
    "teacher": teacher,
    "ceiling": ceiling,
    "method": method,
    "predict": predict,
    "features": features,
    "initial": initial,
}


def load_method(code: Path) -> ModuleType:
    """Import `code`/method.py as module `method`, with `code` on the import path.

    Raises MethodError for a missing file, a syntax error (with its line) or no callable `train`; whatever else the
    file raises while it is imported passes through.
    """
    path = code / "method.py"
    spec = importlib.util.spec_from_file_location("method", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise MethodError(f"{path} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(code))
    sys.modules["method"] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = Path(error.filename).name if error.filename else path.name
        raise MethodError(f"{where}, line {error.lineno}: {error.msg}") from error
    if not callable(getattr(module, "train", None)):
        raise MethodError("method.py defines no function train(run)")
    return module


def _on_truth(
    trainer: Callable[[LabelModel, ItemSet, Any, RunParams, Log], Student],
    in_dir: Path,
    out_dir: Path,
    params: dict[str, Any],
    log: Log,
) -> Metrics:
    start = time.monotonic()
    items = ItemSet.load(in_dir / "items.arrow")
    try:
        settings = RunParams.model_validate(params)
        labels = load_file(in_dir / "labels.safetensors")["labels"]
    except (ValidationError, OSError, SafetensorError, KeyError) as error:
        raise ItemError(f"inputs in {in_dir}: {error}") from error
    if labels.shape != (len(items),) or not np.isin(labels, (0, 1)).all():
        raise ItemError(f"labels have shape {labels.shape}, expected ({len(items)},) of 0 and 1")
    model = LabelModel.load(in_dir / "model", items.kind, device=settings.device)
    _set_threads(settings.threads)
    trainer(model, items, labels, settings, log).save(out_dir / "student.safetensors")
    return {"items": float(len(items)), "seconds": time.monotonic() - start}


def _place(params: dict[str, Any]) -> PlaceParams:
    try:
        place = PlaceParams.model_validate(params)
    except ValidationError as error:
        raise ItemError(f"parameters {params}: {error}") from error
    _set_threads(place.threads)
    return place


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
