"""Rows of the published formats, from whatever file or data set they come, and the task that they make.

    {"question": .., "choice": .., "label": true}              binary: is the choice right?
    {"prompt": .., "first": .., "second": .., "label": "B"}    pair: is the second answer the better one?

Labels are booleans, 0 or 1, and of pairs A (0) or B (1); null, -1 or no field means unknown. Optional are `id`, `group`
(or `consistency_id`) and `split`; other fields are ignored. Promise: every error names the place of the row.
Source of the format: automated-w2s-research, w2s_research/core/data.py, where -1 marks a hidden label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_pool.weak_to_strong.errors import TaskError
from gpu_pool.weak_to_strong.items import Item, ItemSet, Kind
from gpu_pool.weak_to_strong.tasks.schema import SPLITS, Split, Task

_BINARY, _PAIR = ("question", "choice"), ("prompt", "first", "second")
_EXPECTED = "question/choice or prompt/first/second, with a label"
_LETTERS = {"A": 0, "B": 1}


@dataclass(frozen=True, slots=True)
class Row:
    """One item with its label, if known; `where` is its place for people, `split` what the row itself says."""

    where: str
    item: Item
    label: int | None
    split: str | None


def parse(raw: object, where: str, default_id: str) -> Row:
    """Read one row; raises TaskError that names the place and says what was expected."""
    if not isinstance(raw, Mapping):
        raise TaskError(f"{where}: expected an object with {_EXPECTED}, found {_short(raw)}")
    binary = all(name in raw for name in _BINARY)
    if not binary and not all(name in raw for name in _PAIR):
        raise TaskError(f"{where}: expected {_EXPECTED}, found the fields {', '.join(map(str, raw)) or '(none)'}")
    texts = [_text(raw, name, where) for name in (_BINARY if binary else _PAIR)]
    group = _name(raw, "group", where) or _name(raw, "consistency_id", where)
    label = _label(raw.get("label"), where, binary=binary)
    kind: Kind = "binary" if binary else "pair"
    prompt, first, second = (*texts, "")[:3]
    item = Item(_name(raw, "id", where) or default_id, kind, prompt, first, second, group)
    split = raw.get("split")
    return Row(where, item, label, split if split is None else str(split))


def build_task(name: str, rows: Mapping[str, Sequence[Row]], notes: Iterable[str] = ()) -> Task:
    """The task of all rows, by split. Raises TaskError for mixed kinds, ids used twice, labels that are missing."""
    first = next((row for split in SPLITS for row in rows[split]), None)
    if first is None:
        raise TaskError(f"{name}: no rows at all: expected {_EXPECTED}")
    prefix = _shared_ids(rows)
    said = (*notes, *(["ids occurred in several splits: the split's name was put before each"] if prefix else []))
    label, unlabel, test = (_split(split, rows[split], first, prefix=prefix) for split in SPLITS)
    return Task(name, first.item.kind, label, unlabel, test, notes=said)


def _split(name: str, rows: Sequence[Row], first: Row, *, prefix: bool) -> Split:
    if not rows:
        raise TaskError(f"{name} is empty: every task needs {', '.join(SPLITS)}")
    seen: dict[str, str] = {}
    for row in rows:
        if row.item.kind != first.item.kind:
            raise TaskError(
                f"{row.where}: a {row.item.kind} row, but {first.where} is {first.item.kind}: one kind only"
            )
        if seen.setdefault(row.item.id, row.where) != row.where:
            raise TaskError(f"{row.where}: id {row.item.id!r} is that of {seen[row.item.id]} too: ids must be unique")
    unknown = [row for row in rows if row.label is None]
    if unknown and (name != "train_unlabel" or len(unknown) < len(rows)):
        why = "every row of this split needs one" if name != "train_unlabel" else "label all rows of this split or none"
        raise TaskError(f"{unknown[0].where}: {name} row without a label ({len(unknown)} of {len(rows)}): {why}")
    items = [_renamed(row.item, f"{name}/{row.item.id}") if prefix else row.item for row in rows]
    labels = None if unknown else np.array([row.label for row in rows], dtype=np.int8)
    return Split(ItemSet.of(items), labels)


def _shared_ids(rows: Mapping[str, Sequence[Row]]) -> bool:
    ids = [{row.item.id for row in rows[split]} for split in SPLITS]
    return len(set().union(*ids)) < sum(map(len, ids))


def _renamed(item: Item, id_: str) -> Item:
    return Item(id_, item.kind, item.prompt, item.first, item.second, item.group)


def _text(raw: Mapping[str, Any], name: str, where: str) -> str:
    text = raw[name]
    if not isinstance(text, str):
        raise TaskError(f"{where}: {name} is {_short(text)}, expected a text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TaskError(f"{where}: {name} holds half a character ({error.reason}), expected Unicode text") from error
    return text


def _name(raw: Mapping[str, Any], name: str, where: str) -> str | None:
    """An optional name: a text, or an integer as text."""
    value = raw.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise TaskError(f"{where}: {name} is {_short(value)}, expected a text or an integer")
    return _text({name: str(value)}, name, where)


def _label(value: object, where: str, *, binary: bool) -> int | None:
    if value is None or (isinstance(value, int) and value == -1):
        return None
    if isinstance(value, int) and value in (0, 1):  # a boolean is an integer
        return int(value)
    if not binary and isinstance(value, str) and value in _LETTERS:
        return _LETTERS[value]
    letters = "" if binary else ', "A" or "B"'
    raise TaskError(f"{where}: label is {_short(value)}, expected true or false, 0 or 1{letters}")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
