"""The entries of steps: what a forked child of a worker runs.

An entry is a function of `gpu_pool.weak_to_strong.entrypoints`: files in, files out. The child of a foreign entry may
start no program: `execve` is denied before the first line of foreign code. Whatever an entry raises becomes a result
with the last lines of its traceback; a child never ends silently.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Send = Callable[[dict[str, Any]], None]
_FOREIGN = ("method", "probe")
_ON_CPU = ("pretrain", "initial")
"""Entries that never use the slot's device: tiny models, and weights that are only written."""
_ERROR_CHARS = 3000


def run_entry(message: dict[str, Any], send: Send) -> dict[str, Any]:
    """Run the entry that `message` names and describe how it ended: `ok`, `error`, `metrics`."""
    entry = str(message.get("entry"))
    try:
        metrics = _dispatch(entry, message, send)
    except BaseException as error:  # noqa: BLE001  # foreign code may raise anything, SystemExit included
        return {"event": "result", "ok": False, "error": describe_error(error), "metrics": {}}
    return {"event": "result", "ok": True, "error": "", "metrics": metrics}


def is_foreign(message: dict[str, Any]) -> bool:
    """Whether the step that `message` names runs foreign code."""
    return message.get("entry") in _FOREIGN


def describe_error(error: BaseException) -> str:
    """The error's own line first, then the last lines of its traceback, at most 3,000 characters."""
    head = "".join(traceback.format_exception_only(error)).strip()[-1000:]
    trace = "".join(traceback.format_exception(error))
    return f"{head}\n{trace[-(_ERROR_CHARS - len(head) - 1) :]}"


def _dispatch(entry: str, message: dict[str, Any], send: Send) -> dict[str, Any]:
    import torch

    from gpu_pool.weak_to_strong import entrypoints

    torch.set_num_threads(int(message.get("threads") or 1))
    if entry in _FOREIGN:
        from cluster.sandbox.seccomp import deny_exec

        deny_exec()
    if entry not in entrypoints.ENTRIES:
        raise ValueError(f"unknown entry {entry!r}")

    def log(event: str, **values: Any) -> None:
        send({"event": event[:200], **{k: v for k, v in values.items() if isinstance(v, (int, float, str, bool))}})

    log("first_line")  # the next thing a method step does is to execute method.py
    params = dict(message.get("params") or {})
    if entry not in _ON_CPU:
        params["device"] = str(message.get("device") or "cpu")
    return entrypoints.ENTRIES[entry](Path(str(message["in"])), Path(str(message["out"])), params, log)
