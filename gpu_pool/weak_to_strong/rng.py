"""The global random streams of torch, numpy and `random`, set for one run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_streams(seed: int) -> Iterator[None]:
    """All of them start from `seed` inside, and are outside what they were: a method may draw from them."""
    numpy, python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % (1 << 32))
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)
