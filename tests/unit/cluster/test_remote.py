"""Calls to actors whose storage takes nothing for a while."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from cluster import remote as module
from cluster.errors import AarError, Reason, RefusedError
from cluster.remote import Remote
from cluster.storage import StorageError


class Office:
    """An actor whose calls fail with `faults`, one after another, and then answer."""

    def __init__(self, faults: list[Exception]) -> None:
        self.faults, self.keys = faults, list[str]()
        self.spend = self

    async def remote(self, key: str) -> str:
        self.keys.append(key)
        if self.faults:
            cause = self.faults.pop(0)
            raise RayTaskError("spend", "traceback", cause)  # type: ignore[no-untyped-call]
        return "done"


def call(faults: list[Exception], patch: pytest.MonkeyPatch, **settings: Any) -> tuple[Any, Office]:
    office = Office(faults)
    patch.setattr(module, "_STORAGE_RETRY_S", 0.0)
    patch.setattr("ray.get_actor", lambda *_, **__: office)
    return asyncio.run(Remote("c/scheduler", **settings).call("spend", "key")), office


def test_a_call_waits_while_storage_takes_nothing_and_is_made_again_under_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = [StorageError("full"), OSError(errno.ENOSPC, "No space left on device"), StorageError("locked")]
    answer, office = call(list(full), monkeypatch)
    assert answer == "done"
    assert office.keys == ["key"] * 4


def test_one_who_has_no_use_for_waiting_gets_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="No space"):
        call([OSError(errno.ENOSPC, "No space left on device")], monkeypatch, awaits_room=False)


@pytest.mark.parametrize("error", [RefusedError(Reason.OVER_BUDGET, "no"), AarError("broken")])
def test_other_errors_are_not_waited_for(monkeypatch: pytest.MonkeyPatch, error: AarError) -> None:
    with pytest.raises(type(error)):
        call([error], monkeypatch)
