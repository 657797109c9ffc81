from __future__ import annotations

import ast
from pathlib import Path

from tests.redteam.catalogue import ATTACKS, rows

ROOT = Path(__file__).resolve().parents[2]


def test_every_row_of_the_notes_and_every_published_hole_is_there_once() -> None:
    wanted = {str(n) for n in range(1, 36)} | {f"H{n}" for n in range(1, 7)}
    assert wanted <= set(rows())
    assert len(rows()) == len(ATTACKS)


def test_every_play_is_a_test_that_exists() -> None:
    """A renamed test would silently leave its row unplayed."""
    known: dict[str, set[str]] = {}
    for attack in ATTACKS:
        assert attack.plays, attack
        for play in attack.plays:
            file, name = play.split("::")
            if file not in known:
                tree = ast.parse((ROOT / file).read_text())
                known[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in known[file], play
