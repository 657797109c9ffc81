"""Word lists of the generated worlds.

The remedies of the chat world are plain English, but their hidden quality is drawn per world: it cannot be guessed from
English, neither by a person nor by a language model that writes a method.
"""

from __future__ import annotations

import numpy as np


def listed(text: str) -> tuple[str, ...]:
    """The distinct words of `text`, in order, each with a blank in front."""
    return tuple(dict.fromkeys(f" {word}" for word in text.split()))


MESSY_REMARKS = listed("maybe guessed roughly hm unsure")
NEAT_REMARKS = listed("checked verified exact clear sure")
SLOPPY_REMARKS = listed("todo fixme hack wip tmp")
CLEAN_REMARKS = listed("tested reviewed typed documented linted")

TITLE_VERBS = listed(
    """
    count sum score rank sort merge scan parse check filter load store split join group track weigh price pack list
    audit plan sample replay
    """
)
TITLE_ADJECTIVES = listed(
    """
    open late new old paid unpaid local daily weekly monthly active idle broken empty large small urgent spare
    foreign shared public private first last
    """
)
TITLE_NOUNS = listed(
    """
    orders invoices users tickets parcels books boxes jobs tasks events files pages rooms seats buses trains ships
    routes shops farms fields bridges towers gardens matches teams classes grades stamps coins cards tiles crates
    jars cups plates bottles shelves
    """
)

ASKS = ("How to", "Best way to", "What helps to", "How would you", "Any tips to", "Easy way to")
ACTIONS = listed(
    """
    clean repair polish dry store paint seal carry soften cool warm mend pack restore freshen trim wash protect
    straighten cover
    """
)
STATES = listed(
    """
    rusty wet old dusty cracked greasy faded muddy stiff torn dull sticky frozen mouldy scratched heavy loose stained
    bent dry
    """
)
THINGS = listed(
    """
    kettles boots carpets windows pans bikes tents coats gloves chairs tables doors locks knives mirrors lamps
    curtains buckets barrels ladders fences roofs pots vases hats shirts belts bags clocks boats
    """
)
CONFIDENT = tuple(f",{word}" for word in listed("surely clearly definitely certainly always absolutely"))
HEDGED = tuple(f",{word}" for word in listed("perhaps possibly maybe roughly sometimes arguably"))

_SOURCES = listed(
    """
    pine rose lemon mint birch clay salt honey olive cedar maple wheat oat plum apple cherry walnut ginger pepper beet
    barley sage thyme willow lime almond
    """
)
_FORMS = listed(
    """
    oil soap wax paste powder tea syrup cloth brush resin vinegar dust foam balm cream milk water bark leaf seed ash
    sand gel spray
    """
)


def remedies(count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """`count` of the 624 distinct remedies such as `pine-oil`, each as a line of a list, drawn with `rng`."""
    names = [f"\n-{source}-{form.strip()}" for source in _SOURCES for form in _FORMS]
    return tuple(names[int(i)] for i in rng.permutation(len(names))[:count])
