"""Word lists of the generated worlds, and a maker of pronounceable words that mean nothing.

Content words of the chat world are invented on purpose: their hidden quality cannot be guessed from English, neither
by a person nor by a language model that writes a method.
"""

from __future__ import annotations

import numpy as np


def listed(text: str) -> tuple[str, ...]:
    """The distinct words of `text`, in order."""
    return tuple(dict.fromkeys(text.split()))


CHAT_FILLERS = listed(
    """
    the a an of to in on at for with from by about into over under after before while when where this that these
    those some any each every many few more most other such very just also then now here there again still
    almost always often never once twice soon later and or but because
    """
)
CONFIDENT_STYLE = ("certainly", "definitely", "clearly", "surely", "indeed", "absolutely")
HEDGED_STYLE = ("perhaps", "possibly", "maybe", "somewhat", "roughly", "arguably")

MATH_FILLERS = listed(
    """
    ann ben carla dan eva farid gita hugo buys sells shares packs counts carries stacks loads apples pears plums
    coins books pens boxes bags crates shelves rows columns tickets stamps marbles cards tiles bricks jars cups
    plates bottles each every per and then with for of in on at how many total remain cost weigh length width
    area price dozen pair half double train bus ship farm shop school class team garden field road bridge tower
    market kitchen office
    """
)
NEAT_STYLE = ("hence", "therefore", "thus", "so", "next")
MESSY_STYLE = ("hmm", "well", "anyway", "umm", "like")

CODE_FILLERS = listed(
    """
    read write parse sort filter map reduce count find replace join split merge copy move load store send
    receive open close list table tree graph queue stack string number token line file record field key value
    index cache buffer stream packet image user order invoice account ledger the a an of to in on for with from
    by each all input output result helper function class module test script service worker pipeline
    """
)
CLEAN_STYLE = ("#typed", "#tested", "#documented", "#reviewed", "#linted")
SLOPPY_STYLE = ("#todo", "#fixme", "#hack", "#wip", "#tmp")

_ONSETS = listed("b d f g k l m n p r s t v z br dr gr kr pl st tr sk")
_VOWELS = listed("a e i o u ai ou")
_CODAS = ("", "", "n", "r", "l", "s", "m")


def invented_words(count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """`count` distinct words of two syllables such as `dranlu`, drawn with `rng`, none of them in the lists above."""
    known = {*CHAT_FILLERS, *CONFIDENT_STYLE, *HEDGED_STYLE, *MATH_FILLERS, *CODE_FILLERS, "user", "bot"}
    words: dict[str, None] = {}
    while len(words) < count:
        parts = [list_[int(rng.integers(len(list_)))] for list_ in (_ONSETS, _VOWELS, _CODAS, _ONSETS, _VOWELS, _CODAS)]
        word = "".join(parts)
        if word not in known:
            words[word] = None
    return tuple(words)
