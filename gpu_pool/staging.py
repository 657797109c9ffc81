"""Files on their way into a worker: what a step may read appears under its `/in`, nothing else does.

A worker's `/in` is a host directory bound read-only. Inputs are copied (or hard-linked when they are world-readable and
on the same file system), so that a step never holds a path of the run directory. Inputs under the node cache are
reached through the read-only bind `/cache` by a symbolic link, because a model may be larger than a copy is worth.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from cluster.errors import AarError
from cluster.objects import safe_relative
from cluster.trees import Walk

CACHE_INSIDE = "/cache"
MOST_ENTRIES = 10_000
"""Files and folders of one input, and of what a step writes: an honest one has a handful."""


class StagingError(AarError):
    """An input that is not there or has a bad name."""


def stage(inputs: dict[str, Path], into: Path, cache_models: Path, cache_inside: str = CACHE_INSIDE) -> None:
    """Fill the empty directory `into` with `inputs` (name to host path). Raises `StagingError`."""
    for name, source in inputs.items():
        target = into / str(safe_relative(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_relative_to(cache_models):
            if not source.exists():
                raise StagingError(f"input {name}: {source} does not exist")
            target.symlink_to(Path(cache_inside) / source.relative_to(cache_models))
        elif source.is_dir():
            target.mkdir(mode=0o755)
            _bring_folder(name, source, target)
        elif source.is_file():
            _bring(source, target)
        else:
            raise StagingError(f"input {name}: {source} does not exist")


def _bring_folder(name: str, source: Path, target: Path) -> None:
    """The regular files of a folder; links and everything else stay behind."""
    walk = Walk(source, MOST_ENTRIES)
    for path in sorted(found.path for found in walk if found.regular):
        inner = target / path
        inner.parent.mkdir(parents=True, exist_ok=True)
        _bring(source / path, inner)
    if not walk.whole:
        raise StagingError(f"input {name}: {source} is too deep, has more than {MOST_ENTRIES} files, or is locked")


def _bring(source: Path, target: Path) -> None:
    if not link_or_copy(source, target, link=bool(source.stat().st_mode & stat.S_IROTH)):
        target.chmod(0o644)


def link_or_copy(source: Path, target: Path, *, link: bool) -> bool:
    """Make `target` the file `source`, without its bytes where `link` allows it and the file system can; whether so."""
    if link:
        try:
            os.link(source, target)
        except OSError:
            pass  # another file system, one without links, or a file of another user
        else:
            return True
    shutil.copyfile(source, target)
    return False
