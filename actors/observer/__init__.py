"""The observer: reads what a campaign left on disk, and shows, exports and verifies it. It never writes into a store.

`run_data` reads; `books`, `leases`, `standings`, `series` derive; `summary`, `export`, `charts`, `report` present;
`verify` checks that journals, ledger, leases, records and posts agree. None of it needs Ray or a running campaign.

`write_all(run_dir)` and `verify_run(run_dir)` are all that a driver needs; they load when first used, so that the live
view does not wait for a plotting library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.observer.run_data import NoRunError, phase_of
    from actors.observer.verify import VerifyReport, verify_run
    from actors.observer.write import write_all

__all__ = ["NoRunError", "VerifyReport", "phase_of", "verify_run", "write_all"]

_HOME = {
    "NoRunError": "run_data",
    "VerifyReport": "verify",
    "phase_of": "run_data",
    "verify_run": "verify",
    "write_all": "write",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
