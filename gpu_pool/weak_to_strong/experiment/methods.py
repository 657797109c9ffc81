"""Methods of an experiment: published ones by name, and files of one's own. Both run in this process, unconfined."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.file_kind import why_not_text
from gpu_pool.weak_to_strong.entrypoints import load_method
from gpu_pool.weak_to_strong.errors import MethodError
from gpu_pool.weak_to_strong.methods import registry
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.student import Student

RESERVED = ("weak", "ceiling")
"""Names of rows that are no methods."""


@dataclass(frozen=True, slots=True)
class MethodFile:
    """A method file's text under a name for tables.

    `folder` is where its own modules lie, if it has any, `path` the file. A name of
    the registry is that of the registry's method, and `weak` and `ceiling` are no method's: a file of such a name is
    shown with its folder.
    """

    name: str
    source: str
    folder: Path | None = None
    path: Path | None = None

    @classmethod
    def of(cls, name_or_path: str | Path, **params: Any) -> MethodFile:
        """A published method with parameters, or the file (or the folder with method.py) at a path.

        Raises MethodError for a name that is neither, and for parameters that the method does not have.
        """
        name = str(name_or_path)
        if name in registry.names():
            source = registry.source_of(name, **params)
            shown = ", ".join(f"{key}={value}" for key, value in params.items())
            return cls(f"{name}({shown})" if shown else name, source)
        path = Path(name_or_path)
        path = path / "method.py" if path.is_dir() else path
        if not path.is_file():
            raise MethodError(f"method {name!r}: no such file, and not one of {', '.join(registry.names())}")
        if params:
            raise MethodError(
                f"method {name!r}: parameters {', '.join(params)} of a file are constants in it: edit them"
            )
        try:
            data = path.read_bytes()
            source = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MethodError(f"method {name!r} is {why_not_text(data, error)}") from error
        path = path.resolve()
        shown = path.parent.name if path.name == "method.py" else path.stem
        if shown in RESERVED or shown in registry.names():
            shown = f"{path.parent.name}/{path.name}"
        return cls(shown, source, path.parent, path)

    def digest(self) -> str:
        """A hash of the method and of the Python files that it can import from its folder, whether it does or not."""
        texts = [self.source.encode()]
        if self.folder is not None:
            files = sorted(_importable(self.folder))
            texts += [str(path.relative_to(self.folder)).encode() + b"\0" + path.read_bytes() for path in files]
        return hashlib.blake2b(b"\0\0".join(texts), digest_size=16).hexdigest()

    def place_of(self, error: BaseException) -> str:
        """Where in the method's own files `error` came up: ` (line 3)`, ` (helper.py, line 2)`, or nothing."""
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).name == "method.py" or Path(frame.filename).parent == self.folder
        ]
        if not frames:
            return ""
        name = Path(frames[-1].filename).name
        return f" ({'' if name == 'method.py' else f'{name}, '}line {frames[-1].lineno})"

    @contextmanager
    def imported(self) -> Iterator[Callable[[MethodRun], Student]]:
        """Its `train`, checked to return a student; what the method imported from its folder is forgotten afterwards.

        Raises MethodError for a syntax error, no `train`, or another result; the method's own errors pass through.
        """
        before, path = {name.partition(".")[0] for name in sys.modules}, list(sys.path)
        with tempfile.TemporaryDirectory() as copy:
            (Path(copy) / "method.py").write_text(self.source, encoding="utf-8")
            own = [Path(copy).resolve(), *([] if self.folder is None else [self.folder])]
            sys.path[:0] = [str(folder) for folder in own[1:]]
            try:
                yield _checked(load_method(Path(copy)).train)
            finally:
                sys.path[:] = path
                packages = {name.partition(".")[0] for name in sys.modules} - before
                own_packages = {name for name in packages if _lies_in(name, own)}
                for module in [name for name in sys.modules if name.partition(".")[0] in own_packages]:
                    del sys.modules[module]


def _checked(train: Callable[[MethodRun], object]) -> Callable[[MethodRun], Student]:
    def checked(run: MethodRun) -> Student:
        student = train(run)
        if not isinstance(student, Student):
            raise MethodError(f"train() returned {type(student).__name__}, expected a Student")
        return student

    return checked


def _importable(folder: Path) -> Iterator[Path]:
    """The Python files that can be imported with `folder` on the path: those in it and in what may be packages."""
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name.isidentifier() and entry.name != "__pycache__":
                        pending.append(Path(entry.path))
                elif entry.name.endswith(".py"):
                    yield Path(entry.path)


def _lies_in(package: str, folders: list[Path]) -> bool:
    """Whether a loaded package or module of the top level stands in one of `folders`."""
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    places = [Path(place) for place in getattr(module, "__path__", [])] or ([Path(file)] if file is not None else [])
    return any(place.resolve().parent in folders for place in places)
