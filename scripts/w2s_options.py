"""What the weak-to-strong scripts share: options of the command line, and the experiment that they describe."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers.utils import logging as transformers_logging

from cluster.training import Training
from gpu_pool.weak_to_strong.errors import MethodError, TrainingError
from gpu_pool.weak_to_strong.experiment import (
    Event,
    Experiment,
    ExperimentError,
    MethodFile,
    ModelAt,
    ModelSource,
    Pretrained,
    Scores,
    world_of,
)
from gpu_pool.weak_to_strong.methods import registry
from gpu_pool.weak_to_strong.tasks import generated_domain, load_task
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts

CACHE = Path.home() / ".cache" / "aar" / "w2s"
_TEACHER = ("epochs", "lr", "batch", "trainable", "members")
_STUDENT = ("epochs", "lr", "batch", "trainable")
_TYPES: dict[str, type] = {"epochs": int, "lr": float, "batch": int, "trainable": str, "members": int}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Task, seeds, protocols and machine."""
    parser.add_argument(
        "--task", default="generated:math", metavar="TASK",
        help="generated:NAME[:SIZE[:WORLD_SEED]] (chat, math, code), hub:NAME[:CONFIG], a folder or a .jsonl file",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each method (default 5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="the published runs used 42 to 46")
    parser.add_argument(
        "--param", action="append", default=[], metavar="[METHOD.]NAME=VALUE", help="a published method's parameter"
    )
    own = parser.add_argument_group(
        "protocol",
        "of ceiling and methods; the teacher's is the same unless the task brings its own",
    )
    for name in _STUDENT:
        own.add_argument(f"--{name}", type=_TYPES[name], metavar="X", help=_HELP.get(name))
    for name in _TEACHER:
        own.add_argument(f"--teacher-{name}", type=_TYPES[name], metavar="X", help=_HELP.get(f"teacher-{name}"))
    for which in ("weak", "strong"):
        own.add_argument(f"--{which}-chat", action="store_true", help=f"ask the {which} model by its chat template")
    own.add_argument("--max-length", type=int, metavar="TOKENS", help="of the texts of --weak and --strong")
    own.add_argument("--over-long", choices=("cut", "refuse"), help="what is done with longer texts (default cut)")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    machine.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default 1)")
    machine.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"default {CACHE}")
    machine.add_argument("--json", type=Path, metavar="OUT", help="write all figures there as well")


_HELP = {
    "trainable": "full, head, top:K or lora:R; files: lora:32 with --lr 1e-4, as published",
    "teacher-members": "teachers that are averaged",
}


def prepare(args: argparse.Namespace) -> None:
    """Set threads and quiet; raises ExperimentError for what could only fail later: the machine, --cache, --json."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ExperimentError("--device cuda: torch sees no CUDA device here; use --device cpu")
    if args.seeds < 1 or args.threads < 1 or args.first_seed < 0:
        raise ExperimentError("--seeds and --threads must be at least 1, --first-seed at least 0")
    if args.max_length is not None and args.max_length < 1:
        raise ExperimentError("--max-length must be at least 1 token")
    try:
        args.cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExperimentError(f"--cache {args.cache} is no folder and cannot be made one: {error.strerror}") from error
    if not os.access(args.cache, os.W_OK | os.X_OK):
        raise ExperimentError(f"--cache {args.cache}: this user may not write there; give another folder")
    if args.json is not None:
        _check_writable(args.json)
    torch.set_num_threads(args.threads)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _check_writable(out: Path) -> None:
    if not out.parent.is_dir():
        raise ExperimentError(f"--json {out}: the folder {out.parent} does not exist: make it, or give another path")
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ExperimentError(f"--json {out}: no file can be written there; give another path")


def seeds(args: argparse.Namespace) -> range:
    """The seeds that were asked for."""
    return range(args.first_seed, args.first_seed + args.seeds)


def experiment(
    args: argparse.Namespace, task: str, weak: ModelSource | str | None, strong: ModelSource | str | None
) -> Experiment:
    """The experiment on `task`; models of a generated task are its own when they are not given."""
    _check_model_options(args, weak, strong)
    artefacts, domain = Artefacts(args.cache), generated_domain(task)
    student = domain.spec.student if domain is not None else Training()
    student = _changed(student, {name: getattr(args, name) for name in _STUDENT})
    teacher = domain.spec.teacher if domain is not None else student
    teacher = _changed(teacher, {name: getattr(args, f"teacher_{name}") for name in _TEACHER})
    if domain is not None:
        weak = weak or Pretrained(domain, world_of(domain, task), "weak", artefacts)
        strong = strong or Pretrained(domain, world_of(domain, task), "strong", artefacts)
    if not weak or not strong:
        raise ExperimentError(f"task {task} has no models of its own: give --weak PATH and --strong PATH (or hub ids)")
    return Experiment(
        load_task(task),
        _model(args, weak, chat=args.weak_chat),
        _model(args, strong, chat=args.strong_chat),
        artefacts,
        teacher=teacher,
        student=student,
        device=args.device,
        progress=say,
    )


def _check_model_options(
    args: argparse.Namespace, weak: ModelSource | str | None, strong: ModelSource | str | None
) -> None:
    """Raises ExperimentError for an option that none of the models would heed."""
    both = (weak, strong)
    for option, asked, models in (
        ("--max-length", args.max_length, both),
        ("--over-long", args.over_long, both),
        ("--weak-chat", args.weak_chat, (weak,)),
        ("--strong-chat", args.strong_chat, (strong,)),
    ):
        if asked and not any(isinstance(model, str) for model in models):
            raise ExperimentError(f"{option} is for models of your own: give --weak and --strong, or leave it out")


def _model(args: argparse.Namespace, model: ModelSource | str, *, chat: bool) -> ModelSource:
    if not isinstance(model, str):
        return model
    return ModelAt(model, args.max_length, chat=chat, over_long=args.over_long or "cut")


def _changed(protocol: Training, given: Mapping[str, Any]) -> Training:
    """`protocol` with those of `given` that are not None; TrainingError names a value that is refused."""
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        return Training.model_validate(protocol.model_dump() | chosen)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise TrainingError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from error


def methods(names: Sequence[str], settings: Sequence[str]) -> list[MethodFile]:
    """The chosen methods, each once, under names that differ: files of one name are shown with their folders.

    A setting without a method's name goes to every method that has the parameter. Raises MethodError for a setting that
    no method takes.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for setting in settings:
        where, equals, text = setting.partition("=")
        method, dot, parameter = where.rpartition(".")
        takers = [method] if dot else [name for name in given if parameter in _parameters(name)]
        if not equals or not takers or takers[0] not in given:
            raise MethodError(f"--param {setting}: expected [METHOD.]NAME=VALUE for one of {', '.join(given)}")
        for taker in takers:
            given[taker][parameter] = _value(text)
    found = {method.path or method.name: method for method in (MethodFile.of(n, **p) for n, p in given.items())}
    return _told_apart(list(found.values()))


def _told_apart(chosen: Sequence[MethodFile]) -> list[MethodFile]:
    """The methods, with as much of their paths in the names as it takes to tell them apart."""
    out, parts = list(chosen), 1
    while len({method.name for method in out}) < len(out):
        parts += 1
        names = [method.name for method in out]
        out = [
            replace(method, name="/".join(method.path.parts[-parts:]))
            if method.path is not None and names.count(method.name) > 1
            else method
            for method in out
        ]
    return out


def say(event: Event) -> None:
    """One finished run, on the error stream."""
    how = "from the cache" if event.cached else f"{event.seconds:.1f} s of training"
    print(f"{event.name}, seed {event.seed}: accuracy {event.accuracy:.3f}, {how}", file=sys.stderr, flush=True)


def notes(experiment: Experiment, scores: Mapping[str, Scores]) -> list[str]:
    """What was done to the task's rows, and how many texts were cut; `scores` of a run by the model's name."""
    said = [f"note: {note}" for note in experiment.task.notes]
    for model, score in scores.items():
        sizes = experiment.task.splits
        cut = [f"{count} of {len(sizes[split])} {split} texts" for split, count in score.cut.items() if count]
        if cut:
            said.append(f"note: cut to the length of the {model} model: {', '.join(cut)} (--max-length, --over-long)")
    return said


def _parameters(name: str) -> set[str]:
    return set(registry.PARAMS[name].model_fields) if name in registry.names() else set()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
