"""Fixtures of all unit tests."""

from __future__ import annotations

import hypothesis
import pytest

from tests.unit.wall_clock import WallClock

hypothesis.settings.register_profile("no deadlines", deadline=None)  # a loaded machine is no fault of the code
hypothesis.settings.load_profile("no deadlines")


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)
