"""Items of a weak-to-strong task and the text a model reads.

An item is a claim to judge. `binary`: is `first` (the choice) a right answer to `prompt`? Label 1 means right.
`pair`: which of two answers to `prompt` is better? Label 1 means the second (B), as in the published format A=0, B=1.
Promise: an item, an item set and an item file never hold a label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpu_pool.weak_to_strong.errors import ItemError

Kind = Literal["pair", "binary"]
KINDS: tuple[Kind, ...] = ("pair", "binary")
_COLUMNS = ("id", "prompt", "first", "second")
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How an item becomes text; `{prompt}`, `{first}`, `{second}` are replaced once, item text is never a template.

    `ask` ends a text that is trained on, `ask_prior` one that asks the model's own zero-shot opinion; `labels` are the
    two single-token answers, label 0 first.
    """

    body: str
    ask: str
    ask_prior: str
    labels: tuple[str, str]

    def text(self, prompt: str, first: str, second: str, *, prior: bool = False) -> str:
        """The text of one item, ending where the label token would follow."""
        body = self.body.format(prompt=prompt, first=first, second=second)
        return f"{body}{self.ask_prior if prior else self.ask}"

    def save(self, path: Path) -> None:
        """Write as JSON."""
        fields = {"body": self.body, "ask": self.ask, "ask_prior": self.ask_prior, "labels": list(self.labels)}
        path.write_text(json.dumps(fields, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> PromptFormat:
        """Read what `save` wrote; raises ItemError when a field is missing or of the wrong type."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            first, second = raw["labels"]
            return cls(str(raw["body"]), str(raw["ask"]), str(raw["ask_prior"]), (str(first), str(second)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ItemError(f"{path}: not a prompt format (body, ask, ask_prior, labels): {error}") from error


FORMATS: dict[Kind, PromptFormat] = {
    "pair": PromptFormat("user {prompt} A {first} B {second}", " pick", " better", ("A", "B")),
    "binary": PromptFormat("task {prompt} work {first}", " verdict", " grade", ("wrong", "right")),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One claim; of a binary item `prompt` is the question, `first` the choice and `second` empty."""

    id: str
    kind: Kind
    prompt: str
    first: str
    second: str = ""


@dataclass(frozen=True, slots=True)
class ItemSet:
    """Items of one kind, in order, as four columns of equal length n; ids are unique."""

    kind: Kind
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    firsts: tuple[str, ...]
    seconds: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ItemError(f"kind is {self.kind!r}, expected one of {KINDS}")
        sizes = {len(self.ids), len(self.prompts), len(self.firsts), len(self.seconds)}
        if len(sizes) != 1:
            raise ItemError(f"columns differ in length: {sorted(sizes)}")
        if len(set(self.ids)) != len(self.ids):
            raise ItemError("item ids are not unique")

    @classmethod
    def of(cls, items: Sequence[Item]) -> ItemSet:
        """Build from single items, all of the first one's kind; raises ItemError when empty or mixed."""
        if not items or any(item.kind != items[0].kind for item in items):
            raise ItemError("an item set needs at least one item, and items of one kind")
        columns = zip(*((i.id, i.prompt, i.first, i.second) for i in items), strict=True)
        ids, prompts, firsts, seconds = (tuple(column) for column in columns)
        return cls(items[0].kind, ids, prompts, firsts, seconds)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        return Item(self.ids[index], self.kind, self.prompts[index], self.firsts[index], self.seconds[index])

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    def render(self, fmt: PromptFormat | None = None, *, prior: bool = False) -> list[str]:
        """One text per item; `prior` ends it with the zero-shot question instead of the trained one."""
        fmt = fmt or FORMATS[self.kind]
        columns = zip(self.prompts, self.firsts, self.seconds, strict=True)
        return [fmt.text(p, a, b, prior=prior) for p, a, b in columns]

    def swap(self, mask: npt.ArrayLike | None = None) -> ItemSet:
        """Exchange first and second where `mask` (n,) is true (default: everywhere); there label y becomes 1 - y.

        Raises ItemError on binary items, which have no second answer.
        """
        if self.kind != "pair":
            raise ItemError("only pair items can be swapped")
        chosen = np.ones(len(self), bool) if mask is None else np.asarray(mask, bool)
        if chosen.shape != (len(self),):
            raise ItemError(f"swap mask has shape {chosen.shape}, expected ({len(self)},)")
        rows = list(zip(self.firsts, self.seconds, chosen, strict=True))
        firsts = tuple(b if s else a for a, b, s in rows)
        seconds = tuple(a if s else b for a, b, s in rows)
        return ItemSet(self.kind, self.ids, self.prompts, firsts, seconds)

    def take(self, indices: npt.ArrayLike) -> ItemSet:
        """The items at `indices` (m,) of integers, in that order; a boolean mask (n,) works too."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        pick = chosen.tolist()
        columns = (self.ids, self.prompts, self.firsts, self.seconds)
        ids, prompts, firsts, seconds = (tuple(column[i] for i in pick) for column in columns)
        return ItemSet(self.kind, ids, prompts, firsts, seconds)

    def save(self, path: Path) -> None:
        """Write an Arrow IPC file: string columns id, prompt, first, second; the kind is in the schema's metadata."""
        columns = (self.ids, self.prompts, self.firsts, self.seconds)
        schema = pa.schema([(name, pa.string()) for name in _COLUMNS], metadata={"kind": self.kind})
        table = pa.table([pa.array(column, pa.string()) for column in columns], schema=schema)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(table)

    @classmethod
    def load(cls, path: Path) -> ItemSet:
        """Read what `save` wrote; any other column, kind or type raises ItemError."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ItemError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            with pa.OSFile(str(path), "rb") as source, pa.ipc.open_file(source) as reader:
                table = reader.read_all()
            table.validate(full=True)
        except (OSError, pa.ArrowException) as error:
            raise ItemError(f"{path}: not an item file: {error}") from error
        if tuple(table.schema.names) != _COLUMNS or any(field.type != pa.string() for field in table.schema):
            raise ItemError(f"{path}: columns are {table.schema.names}, expected strings {list(_COLUMNS)}")
        if any(table.column(name).null_count for name in _COLUMNS):
            raise ItemError(f"{path}: an item file holds no nulls")
        kind = (table.schema.metadata or {}).get(b"kind", b"").decode("ascii", "replace")
        ids, prompts, firsts, seconds = (tuple(table.column(name).to_pylist()) for name in _COLUMNS)
        return cls(kind, ids, prompts, firsts, seconds)
