"""Published baselines as plain method files, and the teacher and ceiling as library functions.

`path_of("vanilla")` gives a file that can be submitted like any researcher's method.
"""

from __future__ import annotations

from pathlib import Path

from gpu_pool.weak_to_strong.errors import MethodError

BASELINES = ("vanilla", "confident")


def path_of(name: str) -> Path:
    """The method file of a baseline; raises MethodError for a name that does not exist."""
    if name not in BASELINES:
        raise MethodError(f"baseline {name!r}: expected one of {BASELINES}")
    return Path(__file__).with_name(f"{name}.py")
