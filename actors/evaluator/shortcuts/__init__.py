"""Shortcuts: what a pool's own statistics tell of its truth, and a choice of its items in which they tell nothing."""

from __future__ import annotations

from actors.evaluator.shortcuts.balance import Balanced, Shortcut, balance

__all__ = ["Balanced", "Shortcut", "balance"]
