"""Methods of an experiment: published ones by name, and files of one's own. Both run in this process, unconfined."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_pool.weak_to_strong.entrypoints import load_method
from gpu_pool.weak_to_strong.errors import MethodError
from gpu_pool.weak_to_strong.methods import registry
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.student import Student


@dataclass(frozen=True, slots=True)
class MethodFile:
    """A method file's text under a name for tables; `folder` is where its own modules lie, if it has any."""

    name: str
    source: str
    folder: Path | None = None

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
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise MethodError(f"method {name!r} is not a text file: {error}") from error
        return cls(path.parent.name if path.name == "method.py" else path.stem, source, path.resolve().parent)

    def digest(self) -> str:
        """A hash of the method and of the Python files beside it, whether it imports them or not."""
        texts = [self.source.encode()]
        if self.folder is not None:
            texts += [path.name.encode() + b"\0" + path.read_bytes() for path in sorted(self.folder.glob("*.py"))]
        return hashlib.blake2b(b"\0\0".join(texts), digest_size=16).hexdigest()

    @contextmanager
    def imported(self) -> Iterator[Callable[[MethodRun], Student]]:
        """Its `train`, checked to return a student; what the method imported from its folder is forgotten afterwards.

        Raises MethodError for a syntax error, no `train`, or another result; the method's own errors pass through.
        """
        before, path = set(sys.modules), list(sys.path)
        with tempfile.TemporaryDirectory() as copy:
            (Path(copy) / "method.py").write_text(self.source, encoding="utf-8")
            own = [Path(copy).resolve(), *([] if self.folder is None else [self.folder])]
            sys.path[:0] = [str(folder) for folder in own[1:]]
            try:
                yield self._checked(self._load(Path(copy)))
            finally:
                sys.path[:] = path
                for module in [name for name in set(sys.modules) - before if _lies_in(name, own)]:
                    del sys.modules[module]

    def _load(self, folder: Path) -> Callable[[MethodRun], object]:
        try:
            train: Callable[[MethodRun], object] = load_method(folder).train
        except MethodError as error:
            raise MethodError(f"method {self.name!r}: {error}") from error
        return train

    def _checked(self, train: Callable[[MethodRun], object]) -> Callable[[MethodRun], Student]:
        def checked(run: MethodRun) -> Student:
            student = train(run)
            if not isinstance(student, Student):
                raise MethodError(
                    f"method {self.name!r}: train() returned {type(student).__name__}, expected a Student"
                )
            return student

        return checked


def _lies_in(module: str, folders: list[Path]) -> bool:
    file = getattr(sys.modules[module], "__file__", None)
    return file is not None and Path(file).resolve().parent in folders
