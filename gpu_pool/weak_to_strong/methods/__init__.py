"""Published methods as plain method files, and the teacher and ceiling as library functions.

`path_of("vanilla")` gives a file that can be submitted like any researcher's method; `registry` has their parameters.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong.methods.registry import path_of

__all__ = ["BASELINES", "path_of"]

BASELINES = ("vanilla", "confident")
"""Methods that a campaign scores beside the researchers' own."""
