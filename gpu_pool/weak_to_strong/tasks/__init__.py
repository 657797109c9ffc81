"""Tasks, and the artefacts computed from them. The evaluator's side: labels
stand here, so no sandbox sees this package.

`load_task("generated:math")`, `load_task("path/to/jsonl")` and `load_task("hub:owner/name")` give the same thing: a
checked `Task` with the splits train_label, train_unlabel and test.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpu_pool.weak_to_strong.errors import TaskError
from gpu_pool.weak_to_strong.tasks.schema import SPLITS, Split, Task

if TYPE_CHECKING:
    from gpu_pool.weak_to_strong.domains import Domain

__all__ = ["SPLITS", "Split", "Task", "generated_domain", "load_task"]


def load_task(spec: str, seed: int = 0) -> Task:
    """The task that `spec` names.

    `generated:NAME[:SIZE[:WORLD_SEED]]`: a world's splits, drawn by `seed`; `hub:NAME[:CONFIG]`: a data set of the
    Hugging Face hub, divided by `seed` where it has no splits of its own; else the path of a saved task, of a folder
    of JSON lines or of a .jsonl file, which do not depend on the seed. Raises TaskError naming what is wrong with it.
    """
    domain = generated_domain(spec)
    if domain is not None:
        from gpu_pool.weak_to_strong.tasks.generated import generated_task

        return generated_task(domain, seed)
    if spec.startswith("hub:"):
        from gpu_pool.weak_to_strong.tasks.hub import hub_task

        name, _, config = spec.removeprefix("hub:").partition(":")
        return hub_task(name, config or None, seed)
    path = Path(spec)
    if not path.exists():
        raise TaskError(f"no task {spec!r}: expected generated:NAME, hub:NAME, or the path of a folder or .jsonl file")
    if (path / "task.json").is_file():
        return Task.load(path)
    from gpu_pool.weak_to_strong.tasks.jsonl import read_jsonl

    return read_jsonl(path)


def generated_domain(spec: str) -> Domain | None:
    """The world of a generated task's `spec`; None for any other task. Raises TaskError when there is no such world."""
    if not spec.startswith("generated:"):
        return None
    from gpu_pool.weak_to_strong.tasks.generated import parse_domain

    return parse_domain(spec)
