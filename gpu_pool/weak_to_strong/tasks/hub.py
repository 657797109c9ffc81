"""Tasks from data sets of the Hugging Face hub by name, with the extra `hub` (the package `datasets`).

A data set with the splits train_label, train_unlabel and test is taken as it is. Of one with train and test (or
validation), half of train's prompts, drawn by the seed, teach the teacher and the other half the student, as in Burns
et al. 2023 (arXiv 2312.09390, section 3). The rows are those of `tasks.rows`; `columns` renames others.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpu_pool.weak_to_strong.errors import TaskError
from gpu_pool.weak_to_strong.tasks.rows import Row, build_task, parse
from gpu_pool.weak_to_strong.tasks.schema import SPLITS, Task

PREFIX = "hub:"
_TESTS = ("test", "validation")


def hub_task(name: str, config: str | None = None, seed: int = 0, columns: Mapping[str, str] | None = None) -> Task:
    """The task of the data set `name` (`owner/name`) in the given configuration.

    `columns` maps names of the data set's columns to those of `tasks.rows`. Raises TaskError when the extra is not
    installed, the hub cannot be reached, a split is missing, or a row is broken (named as hub:NAME[SPLIT]:ROW).
    """
    data, notes = _load(name, config), []
    if all(split in data for split in SPLITS):
        rows = {split: _rows(name, split, data[split], columns) for split in SPLITS}
    else:
        test = next((split for split in _TESTS if split in data), None)
        if "train" not in data or test is None:
            raise TaskError(
                f"hub:{name} has the splits {', '.join(map(str, data)) or '(none)'}, expected {', '.join(SPLITS)}, or "
                "train and test: save it as JSON lines with such splits and give the path"
            )
        rows = {"test": _rows(name, test, data[test], columns)}
        rows["train_label"], rows["train_unlabel"] = _halves(_rows(name, "train", data["train"], columns), seed)
        notes.append(f"train was divided by prompt with seed {seed}; test is the split {test}")
    return build_task(name if config is None else f"{name}:{config}", rows, notes)


def _load(name: str, config: str | None) -> Mapping[str, Any]:
    """All splits of the data set, each a sequence of rows."""
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise TaskError(
            f"hub:{name} needs the package datasets ({error}): pip install 'aar-cluster[hub]', or give a path"
        ) from error
    try:
        data = datasets.load_dataset(name) if config is None else datasets.load_dataset(name, config)
    except Exception as error:  # the hub's client has an error of its own for every layer below it
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TaskError(
            f"hub:{name} cannot be loaded ({first}): where there is a network, run `hf download --repo-type dataset "
            f"{name}` or save it as JSON lines, copy that to this machine, and give its path"
        ) from error
    if not isinstance(data, Mapping):
        raise TaskError(f"hub:{name} is {type(data).__name__}, expected splits by name")
    return data


def _rows(name: str, split: str, table: Any, columns: Mapping[str, str] | None) -> list[Row]:
    names = columns or {}
    return [
        parse(
            {names.get(field, field): value for field, value in raw.items()}, f"hub:{name}[{split}]:{i}", f"{split}-{i}"
        )
        for i, raw in enumerate(table)
    ]


def _halves(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows of one half of the prompts and rows of the other, in their order."""
    prompts = sorted({row.item.prompt for row in rows})
    order = np.random.default_rng(seed).permutation(len(prompts))
    chosen = {prompts[i] for i in order[: len(prompts) // 2]}
    return [r for r in rows if r.item.prompt in chosen], [r for r in rows if r.item.prompt not in chosen]
