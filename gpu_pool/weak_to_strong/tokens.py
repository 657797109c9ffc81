"""Token ids of many texts of different length: one flat array, no padding, cheap to subset, memory-mapped from a file.

Promise: a table is never changed after its construction; `take` and indexing copy no ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpu_pool.weak_to_strong.errors import ItemError

Ids = npt.NDArray[np.int32]
_IDS, _CUT = "ids", "cut"


class TokenTable(Sequence[Ids]):
    """n texts as token ids; `table[i]` is a view (t,) int32.

    `lengths` (n,) int64 are the texts' lengths; `cut` (n,) bool says which were cut to fit the model.
    """

    __slots__ = ("_starts", "_values", "cut", "lengths")

    def __init__(self, values: npt.ArrayLike, offsets: npt.ArrayLike, cut: npt.ArrayLike | None = None) -> None:
        """`values` holds all ids one text after the other; text i is `values[offsets[i]:offsets[i + 1]]`.

        `cut`: none by default. Raises ItemError when offsets (n + 1,) do not rise from 0 to the number of ids.
        """
        self._values = np.ascontiguousarray(values, dtype=np.int32)
        bounds = np.ascontiguousarray(offsets, dtype=np.int64)
        if bounds.ndim != 1 or not len(bounds) or bounds[0] != 0 or bounds[-1] != len(self._values):
            raise ItemError(f"token offsets must run from 0 to {len(self._values)}")
        self._starts = bounds[:-1]
        self.lengths: npt.NDArray[np.int64] = np.diff(bounds)
        self.cut: npt.NDArray[np.bool_] = np.zeros(len(self.lengths), bool) if cut is None else np.asarray(cut, bool)
        if len(self.lengths) and self.lengths.min() < 0:
            raise ItemError("token offsets must not fall")
        if self.cut.shape != self.lengths.shape:
            raise ItemError(f"cut has shape {self.cut.shape}, expected {self.lengths.shape}")

    @property
    def truncated(self) -> int:
        """How many of the texts were cut."""
        return int(self.cut.sum())

    @classmethod
    def of(cls, rows: Sequence[npt.ArrayLike], cut: npt.ArrayLike | None = None) -> TokenTable:
        """The table of a list of id sequences; a table is given back as it is."""
        if isinstance(rows, TokenTable):
            return rows
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.cumsum([0, *(len(row) for row in arrays)])
        return cls(np.concatenate(arrays) if arrays else np.zeros(0, np.int32), offsets, cut)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Ids (t,) of one text; a slice gives a table."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        start = self._starts[index]
        return self._values[start : start + self.lengths[index]]

    def __iter__(self) -> Iterator[Ids]:
        return (self[i] for i in range(len(self)))

    def take(self, indices: npt.ArrayLike) -> TokenTable:
        """The texts at `indices` (m,) of integers, in that order, or where a mask (n,) is true; ids are shared."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        part = TokenTable.__new__(TokenTable)
        part._values, part.cut = self._values, self.cut[chosen]
        part._starts, part.lengths = self._starts[chosen], self.lengths[chosen]
        return part

    def padded(self, indices: npt.NDArray[np.int64], padding: int = 0) -> npt.NDArray[np.int64]:
        """The texts at `indices` (b,) right-padded to the longest of them: (b, t) int64."""
        lengths = self.lengths[indices]
        out = np.full((len(indices), int(lengths.max())), padding, dtype=np.int64)
        for row, start, length in zip(out, self._starts[indices].tolist(), lengths.tolist(), strict=True):
            row[:length] = self._values[start : start + length]
        return out

    def save(self, path: Path) -> None:
        """Write an Arrow IPC file of two columns: `ids`, lists of int32, and `cut`, booleans."""
        ids = np.concatenate([*self, np.zeros(0, np.int32)])
        offsets = np.cumsum([0, *self.lengths])
        column = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(ids, pa.int32()))
        schema = pa.schema([(_IDS, column.type), (_CUT, pa.bool_())])
        table = pa.table([column, pa.array(self.cut)], schema=schema)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(table, max_chunksize=max(1, len(self)))

    @classmethod
    def load(cls, path: Path) -> TokenTable:
        """Memory-map what `save` wrote: the ids stay in the file's pages. Raises ItemError for anything else."""
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                table = reader.read_all()
            table.validate(full=True)
            expected = pa.schema([(_IDS, pa.large_list(pa.int32())), (_CUT, pa.bool_())])
            if not table.schema.equals(expected):
                raise ItemError(f"{path}: columns are {table.schema}, expected {expected}")
            if len(table) == 0:
                return cls(np.zeros(0, np.int32), [0])
            (chunk,) = table.column(0).chunks
            return cls(chunk.values.to_numpy(), chunk.offsets.to_numpy(), table.column(1).to_numpy())
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ItemError(f"{path}: not a token file: {error}") from error
