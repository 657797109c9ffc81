"""Items of a weak-to-strong task and the text a model reads.

An item is a claim to judge. `binary`: is `first` (the choice) a right answer to `prompt`? Label 1 means right.
`pair`: which of two answers to `prompt` is better? Label 1 means the second (B), as in the published format A=0, B=1.
Items of one consistency group speak about the same question, so that their labels constrain each other (candidate
answers to one problem); without groups, items with the same prompt are a group.
Promise: an item, an item set and an item file never hold a label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpu_pool.weak_to_strong.errors import ItemError
from gpu_pool.weak_to_strong.formats import FORMATS, PromptFormat

Kind = Literal["pair", "binary"]
KINDS: tuple[Kind, ...] = ("pair", "binary")
_COLUMNS = ("id", "prompt", "first", "second")
_GROUP = "group"
_FIELDS = ("ids", "prompts", "firsts", "seconds")
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Item:
    """One claim; of a binary item `prompt` is the question, `first` the choice and `second` empty."""

    id: str
    kind: Kind
    prompt: str
    first: str
    second: str = ""
    group: str | None = None


@dataclass(frozen=True, slots=True)
class ItemSet:
    """Items of one kind, in order, as columns of equal length n; ids are unique.

    `groups` names the consistency group of each item; None: the prompt is the group.
    """

    kind: Kind
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    firsts: tuple[str, ...]
    seconds: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ItemError(f"kind is {self.kind!r}, expected one of {KINDS}")
        sizes = {len(column) for column in self._columns()}
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
        groups = None
        if any(item.group is not None for item in items):
            groups = tuple(item.prompt if item.group is None else item.group for item in items)
        return cls(items[0].kind, ids, prompts, firsts, seconds, groups)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        group = None if self.groups is None else self.groups[index]
        return Item(self.ids[index], self.kind, self.prompts[index], self.firsts[index], self.seconds[index], group)

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    def _columns(self) -> list[tuple[str, ...]]:
        """The columns in their order, with the groups when there are any."""
        columns = [self.ids, self.prompts, self.firsts, self.seconds]
        return columns if self.groups is None else [*columns, self.groups]

    def group_index(self) -> npt.NDArray[np.int64]:
        """A number (n,) per item, equal within a consistency group; groups are counted from 0 in order of first use."""
        numbers: dict[str, int] = {}
        names = self.prompts if self.groups is None else self.groups
        return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)

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
        return ItemSet(self.kind, self.ids, self.prompts, firsts, seconds, self.groups)

    def take(self, indices: npt.ArrayLike) -> ItemSet:
        """The items at `indices` (m,) of integers, in that order; a boolean mask (n,) works too."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        pick = chosen.tolist()
        return ItemSet(self.kind, *(tuple(column[i] for i in pick) for column in self._columns()))

    def concat(self, other: ItemSet) -> ItemSet:
        """These items, then those of `other`; ItemError when the kinds differ or an id occurs in both."""
        if self.kind != other.kind:
            raise ItemError(f"{self.kind} and {other.kind} items cannot be in one set")
        ids, prompts, firsts, seconds = (getattr(self, name) + getattr(other, name) for name in _FIELDS)
        groups = None
        if self.groups is not None or other.groups is not None:
            groups = (self.groups or self.prompts) + (other.groups or other.prompts)
        return ItemSet(self.kind, ids, prompts, firsts, seconds, groups)

    def content_hash(self) -> str:
        """sha256, in hexadecimal, over the kind and every text in order; equal sets and only they have the same."""
        digest = hashlib.sha256(f"{self.kind} {len(self)} {self.groups is not None}\n".encode())
        for column in self._columns():
            data = [text.encode("utf-8", "surrogatepass") for text in column]
            digest.update(np.array([len(text) for text in data], dtype="<i8").tobytes())
            digest.update(b"".join(data))
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write an Arrow IPC file: string columns id, prompt, first, second and, when there are groups, group.

        The kind is in the schema's metadata.
        """
        columns = self._columns()
        names = (*_COLUMNS, _GROUP)[: len(columns)]
        schema = pa.schema([(name, pa.string()) for name in names], metadata={"kind": self.kind})
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
        names = tuple(table.schema.names)
        if names not in (_COLUMNS, (*_COLUMNS, _GROUP)) or any(field.type != pa.string() for field in table.schema):
            raise ItemError(f"{path}: columns are {list(names)}, expected strings {list(_COLUMNS)}, maybe {_GROUP}")
        if any(table.column(name).null_count for name in names):
            raise ItemError(f"{path}: an item file holds no nulls")
        kind = (table.schema.metadata or {}).get(b"kind", b"").decode("ascii", "replace")
        return cls(kind, *(tuple(table.column(name).to_pylist()) for name in names))
