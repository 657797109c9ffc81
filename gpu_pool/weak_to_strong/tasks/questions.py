"""What an item's question is: its prompt, unless that is an instruction which items about different things share.

`Is this film review favourable?` before a thousand reviews asks a thousand questions. Such a prompt links no items;
their answers tell them apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gpu_pool.weak_to_strong.items import ItemSet

MANY = 50
"""Items, and the share of all items, from which on a prompt is an instruction: nobody samples so many solutions of one
problem, and a task of fewer than twenty problems has nothing to carve pools from."""
MANY_SHARE = 0.05


def plain(text: str) -> str:
    """`text` with its white space levelled."""
    return " ".join(text.split())


def instructions(sets: Sequence[ItemSet]) -> frozenset[str]:
    """The prompts of a task's splits, white space levelled, that are instructions and no questions."""
    counts = Counter(plain(prompt) for items in sets for prompt in items.prompts)
    least = max(MANY, MANY_SHARE * counts.total())
    return frozenset(prompt for prompt, count in counts.items() if count >= least)


def question_keys(items: ItemSet, shared: frozenset[str]) -> list[str]:
    """A text for each item, equal for items with the same prompt; of items with a `shared` one, with equal answers."""
    keys = []
    for prompt, first, second in zip(items.prompts, items.firsts, items.seconds, strict=True):
        asked = plain(prompt)
        answers = sorted((plain(first), plain(second))) if asked in shared else []
        keys.append("\n".join([asked, *answers]))
    return keys
