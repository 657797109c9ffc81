from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redteam.theatre import Theatre
from tests.unit.gpu_pool.worker_bench import Bench
from tests.unit.weak_to_strong.conftest import chat, folder, model  # noqa: F401  # a tiny real model


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A real lane for foreign code."""
    bench = Bench(tmp_path_factory.mktemp("lane"))
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """A prepared campaign on a tiny world: real judge, scheduler, slot and sandboxes."""
    theatre = Theatre(tmp_path_factory.mktemp("theatre"))
    yield theatre
    theatre.close()
