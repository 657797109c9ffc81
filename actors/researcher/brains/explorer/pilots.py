"""How promising a pilot looks, from measures that know no truth: a small push between methods of equal expectation."""

from __future__ import annotations

from typing import Any

PUSH = 0.15
SIDE_WEIGHT = 0.3
BALANCE_TOLERANCE = 0.15
MIN_AGREEMENT = 0.55
COLLAPSED = -0.5


def promise(pilot: dict[str, Any]) -> float:
    """A bonus in PGR, from -0.5 (collapsed) to +0.15.

    A student that answers nearly always the same, or agrees with its teacher hardly more than by chance, has
    collapsed. Otherwise, the more the strong model's own prior sides with the student where it leaves its
    teacher, the better.
    """
    if pilot.get("status") != "ok":
        return COLLAPSED
    skew = abs(float(pilot.get("balance", 0.5)) - float(pilot.get("weak_balance", 0.5)))
    if skew > 2 * BALANCE_TOLERANCE or float(pilot.get("agree_weak", 1.0)) < MIN_AGREEMENT:
        return COLLAPSED
    sides = pilot.get("prior_sides_with_student")
    push = SIDE_WEIGHT * (float(sides) - 0.5) if sides is not None else 0.0
    return max(-PUSH, min(PUSH, push)) - max(0.0, skew - BALANCE_TOLERANCE)
