"""What is done when memory runs out: half as much is computed at once, and the work goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import torch

from gpu_pool.weak_to_strong.errors import ModelError


class Indices(Protocol):
    """A list or an array of indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: slice, /) -> Any: ...


Part = TypeVar("Part", bound=Indices)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` says that a GPU or the machine has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release() -> None:
    """Give cached GPU memory back, so that a smaller attempt finds it whole."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def in_parts(parts: Iterable[Part], work: Callable[[Part], None]) -> None:
    """`work` on each of `parts` (indices of texts), in order; all that are left are halved whenever memory runs out.

    `work` may be called again for texts that it failed on. Raises ModelError when a single text does not fit.
    """
    waiting = [*parts][::-1]
    while waiting:
        try:
            work(waiting[-1])
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(waiting[-1]) == 1:
                raise ModelError(
                    "memory is too small for one text: lower max_length, or take a smaller model"
                ) from error
        else:
            waiting.pop()
            continue
        # Out here the error, and with it what its traceback holds, is gone.
        waiting = [half for part in waiting for half in _halves(part)]
        release()


def _halves(part: Part) -> list[Part]:
    """The second half, then the first: what is done next stands last."""
    middle = (len(part) + 1) // 2
    return [half for half in (part[middle:], part[:middle]) if len(half)]
