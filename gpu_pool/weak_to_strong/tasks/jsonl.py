"""Tasks in the published format: JSON lines, a folder with a file per split or one file whose rows name their split.

    DIR/train_label.jsonl  DIR/train_unlabel.jsonl  DIR/test.jsonl      or      FILE.jsonl with "split" in every row

The rows are those of `tasks.rows`. A broken row is named as FILE:LINE; blank lines are allowed; lines and files have a
largest size, so that a wrong path cannot fill the memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cluster.file_kind import HEAD, known_kind
from gpu_pool.weak_to_strong.errors import TaskError
from gpu_pool.weak_to_strong.tasks.rows import Row, build_task, parse
from gpu_pool.weak_to_strong.tasks.schema import SPLITS, Task

MAX_LINE_BYTES = 1 << 23  # an item of 8,192 tokens takes about 40 kB
MAX_FILE_BYTES = 1 << 30
_BOM = b"\xef\xbb\xbf"


def read_jsonl(path: Path, name: str | None = None) -> Task:
    """The task of a folder or a file; `name` defaults to its own. Raises TaskError that names file and line."""
    if path.is_dir():
        files = {split: path / f"{split}.jsonl" for split in SPLITS}
        missing = [file.name for file in files.values() if not file.is_file()]
        if missing:
            packed = sorted(file.name for name in missing for file in path.glob(f"{name}.*"))
            unpack = f" (unpack {', '.join(packed)})" if packed else ""
            raise TaskError(f"{path} has no {', '.join(missing)}: a task folder needs one file for each split{unpack}")
        return build_task(name or path.name, {split: list(_rows(file, split)) for split, file in files.items()})
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in _rows(path, path.stem):
        if row.split not in rows:
            found = "no field split" if row.split is None else f"split {row.split!r}"
            raise TaskError(f"{row.where}: {found}, expected split to be one of {', '.join(SPLITS)}")
        rows[row.split].append(row)
    return build_task(name or path.stem, rows)


def _rows(path: Path, prefix: str) -> Iterator[Row]:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            raw = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise TaskError(
                f"{where}: byte {error.start + 1} of the line is not UTF-8: save the file as UTF-8"
            ) from error
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{where}: not a JSON object in one line: {error}") from error
        yield parse(raw, where, f"{prefix}-{number}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TaskError(f"{path}: larger than {MAX_FILE_BYTES} bytes: give fewer rows")
        with path.open("rb") as file:
            kind = known_kind(file.peek(HEAD)[:HEAD])
            if kind is not None:
                raise TaskError(f"{path} is {kind}")
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise TaskError(f"{path}:{number}: longer than {MAX_LINE_BYTES} bytes: expected one item in a line")
                line = line.removeprefix(_BOM) if number == 1 else line
                if line.strip():
                    yield number, line
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from error
