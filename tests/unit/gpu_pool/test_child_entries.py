"""What a forked child hands to an entry of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpu_pool.child.entries import run_entry
from gpu_pool.weak_to_strong import entrypoints


@pytest.mark.parametrize(
    ("entry", "device", "expected"),
    [
        ("predict", "cuda", {"seed": 1, "device": "cuda"}),
        ("teacher", None, {"seed": 1, "device": "cpu"}),
        ("pretrain", "cuda", {"seed": 1}),
        ("initial", "cuda", {"seed": 1}),
    ],
)
def test_the_device_is_the_slots_and_not_the_asker_s(
    monkeypatch: pytest.MonkeyPatch, entry: str, device: str | None, expected: dict[str, Any]
) -> None:
    given: list[dict[str, Any]] = []

    def spy(into: Path, out: Path, params: dict[str, Any], log: Any) -> dict[str, float]:
        given.append(params)
        return {}

    monkeypatch.setitem(entrypoints.ENTRIES, entry, spy)
    message = {"entry": entry, "params": {"seed": 1}, "device": device, "in": "/in", "out": "/out", "threads": 1}
    assert run_entry(message, lambda frame: None)["ok"]
    assert given == [expected]
