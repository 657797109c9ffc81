"""Fixtures of all unit tests."""

from __future__ import annotations

import pytest

from tests.unit.wall_clock import WallClock


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)
