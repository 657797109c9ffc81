"""Results that are computed once and read often: weak labels, ceilings, priors, hidden states, token tables.

An artefact is named by its kind and the sha256 of its key, canonical JSON that must name all the result depends on:
the task's content, the model, the seed, the version of the code (`code_version`).
Promises: what stands under a name is complete (made aside, then renamed) and is never changed; arrays are read-only
views of the file's pages, which processes of a node share. Processes that ask for one key at the same time wait for
the one that computes it; when that one dies, the next computes. A damaged artefact is computed again, with a warning.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from cluster.trees import remove_tree
from gpu_pool.weak_to_strong.errors import ArtefactError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
_log = logging.getLogger(__name__)
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_ARRAYS, _LIST = "arrays.safetensors", ".artefact.json"
_BLOCK = 1 << 22
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


class Artefacts:
    """The artefacts below one folder, `root/KIND/NAME/`; many processes and threads may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._intact: set[Path] = set()  # read once to check them: 350 MB took 0.5 s

    def arrays(self, kind: str, key: Mapping[str, JSON], make: Callable[[], Arrays]) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a key, read-only and memory-mapped; `make` gives them when they are not there yet.

        Raises ArtefactError when the key is no JSON or an array holds anything but numbers and booleans.
        """
        return _mapped(self.arrays_file(kind, key, make))

    def arrays_file(self, kind: str, key: Mapping[str, JSON], make: Callable[[], Arrays]) -> Path:
        """The safetensors file that `arrays` reads, to be handed to a run."""

        def write(folder: Path) -> None:
            made = {name: np.asarray(array, order="C") for name, array in make().items()}
            for name, array in made.items():
                if array.dtype.type not in _TYPES.values():
                    raise ArtefactError(f"{kind}: array {name!r} has type {array.dtype}, which cannot be stored")
            save_file(made, folder / _ARRAYS)

        return self.folder(kind, key, write) / _ARRAYS

    def folder(self, kind: str, key: Mapping[str, JSON], make: Callable[[Path], None]) -> Path:
        """The folder of a key, to be read only; `make` fills an empty one when it is not there yet.

        `make` may ask for other artefacts, not for its own key. Raises ArtefactError as `arrays` does.
        """
        text = canonical(key)
        entry = self._entry(kind, text)
        if self._usable(entry):
            return entry
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _alone(entry):
            if self._usable(entry):
                return entry
            if entry.exists():
                _log.warning("%s is damaged and is computed again", entry)
                _discard(entry)
            building = entry.with_name(f".{entry.name}.making")
            _discard(building)  # of a process that died
            building.mkdir()
            try:
                make(building)
                _seal(building, text)
                building.rename(entry)
            finally:
                _discard(building)
        self._intact.add(entry)
        return entry

    def has(self, kind: str, key: Mapping[str, JSON]) -> bool:
        """Whether the artefact of a key is there, so that asking for it computes nothing."""
        return self._usable(self._entry(kind, canonical(key)))

    def _entry(self, kind: str, text: str) -> Path:
        return self.root / _checked(kind) / hashlib.sha256(text.encode()).hexdigest()

    def _usable(self, entry: Path) -> bool:
        """Whether the artefact is there with every file as it was written."""
        if entry in self._intact:
            return entry.is_dir()
        try:
            listed = json.loads((entry / _LIST).read_bytes())["files"]
            whole = all(_sum(entry / name) == found for name, found in listed.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if whole:
            self._intact.add(entry)
        return whole


def canonical(key: Mapping[str, JSON]) -> str:
    """The one JSON text of a key: sorted names, no spaces, no NaN. Raises ArtefactError when it is no JSON."""
    try:
        text = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
        # JSON turns the name 1 into "1" and a tuple into a list; the first would give two keys one name.
        if not _texts_only(key):
            raise TypeError("names must be texts")
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtefactError(f"artefact key is not plain JSON (texts, numbers, lists, mappings): {error}") from error
    return text


def code_version(*modules: str) -> str:
    """Sixteen hexadecimal digits over the sources of modules, of a package all modules below it.

    They are found by their full names and not run. Raises ArtefactError for a module that has no source here.
    """
    digest = hashlib.sha256()
    for module in sorted(modules):
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ArtefactError(
                f"module {module!r} has no source here: give full names, as gpu_pool.weak_to_strong.run"
            )
        file = Path(spec.origin)
        files = sorted(file.parent.rglob("*.py")) if spec.submodule_search_locations else [file]
        for path in files:
            source = path.read_bytes()
            digest.update(f"{module}\0{path.relative_to(file.parent)}\0{len(source)}\0".encode())
            digest.update(source)
    return digest.hexdigest()[:16]


def _texts_only(value: JSON) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _texts_only(inner) for name, inner in value.items())
    return isinstance(value, str) or not isinstance(value, Sequence) or all(map(_texts_only, value))


def _checked(kind: str) -> str:
    if not _KIND.fullmatch(kind):
        raise ArtefactError(f"artefact kind {kind!r}: expected a short name of a-z, 0-9, - and _")
    return kind


def _seal(folder: Path, key: str) -> None:
    """Write what stands in a finished folder, with its key for people, and take the right to write away."""
    paths = sorted(folder.rglob("*"))
    if any(path.is_symlink() for path in paths):
        raise ArtefactError(f"{folder}: an artefact holds no links, what they point to could change: copy the files")
    files = [path for path in paths if path.is_file()]
    listed = {str(path.relative_to(folder)): _sum(path) for path in files}
    (folder / _LIST).write_text(json.dumps({"key": json.loads(key), "files": listed}), encoding="utf-8")
    for path in [*files, folder / _LIST]:
        path.chmod(0o444)


def _sum(path: Path) -> list[int]:
    """Bytes and CRC-32 of a file: it finds damage, not malice."""
    size = total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, total = size + len(block), zlib.crc32(block, total)
    return [size, total]


def _mapped(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read-only views of a safetensors file's tensors."""
    with safe_open(path, "np") as tensors:  # checks the header, its offsets and the file's size
        names = list(tensors.keys())
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    data = np.memmap(path, dtype=np.uint8, mode="r")[start:] if path.stat().st_size > start else np.zeros(0, np.uint8)
    out = {}
    for name in names:
        first, last = header[name]["data_offsets"]
        out[name] = data[first:last].view(_TYPES[header[name]["dtype"]]).reshape(header[name]["shape"])
    return out


def _discard(folder: Path) -> None:
    remove_tree(folder)


@contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Hold the key's lock; the system frees it when its holder dies. The empty lock file stays."""
    with entry.with_name(f".{entry.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
