"""Text of strangers: how its lines are counted, and how it is shown so that it can steer no terminal.

Promises: `lines` counts as `grep -n`, `wc -l` and Python's compiler do, by line feeds alone; `str.splitlines` also
breaks at form feeds, U+2028 and six more, which stand inside lines of real files. What `visible` and `visible_line`
return holds no control, bidirectional, invisible or unpaired character: each is written as its escape, never dropped,
so that what was there can still be read. Both take linear time.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")


def lines(text: str) -> list[str]:
    """The lines of a text without their line feeds; a last line feed ends a line and begins none."""
    found = text.split("\n")
    return found[:-1] if not found[-1] else found


def lines_with_ends(text: str) -> list[str]:
    """The lines of a text with their line feeds; joined, they are the text."""
    *ended, last = text.split("\n")
    return [f"{line}\n" for line in ended] + ([last] if last else [])


def visible(text: str) -> str:
    """`text` for a terminal or a page: what moves, colours, reorders or hides is escaped; line feeds and tabs stay."""
    return _escaped(text, keep="\n\t")


def visible_line(text: str) -> str:
    """`visible` in one line: line feeds and tabs are escaped, too."""
    return _escaped(text, keep="")


def escaped_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON for a terminal or a file: what `visible` escapes is escaped, and read back as it was."""
    return visible(json.dumps(value, ensure_ascii=False, indent=indent))


def _escaped(text: str, keep: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return text.translate({ord(c): escape(c) for c in set(text) if c not in keep and is_hidden(c)})


def is_hidden(char: str) -> bool:
    """Whether a character has no shape of its own, or acts on others: control, format, private, unassigned, blank."""
    return char in _BLANK_LETTERS or unicodedata.category(char) in _HIDDEN


def escape(char: str) -> str:
    """A character as JSON and Python write it: `\\u001b`; above U+FFFF as a pair, which JSON reads back."""
    code = ord(char)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
