"""Files on their way into a lane: what a step may read appears under its `/in`, nothing else does.

A lane's `/in` is a host directory bound read-only. Inputs are copied (or hard-linked when they are world-readable and
on the same file system), so that a step never holds a path of the run directory. Inputs under the node cache are
reached through the read-only bind `/cache` by a symbolic link, because a model may be larger than a copy is worth.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from cluster.errors import AarError
from cluster.objects import safe_relative

CACHE_INSIDE = "/cache"
HUGE = 1 << 62


class StagingError(AarError):
    """An input that is not there or has a bad name."""


def _open_up(_function: object, path: str, _info: object) -> None:
    """A directory that foreign code left without permissions: give them back and remove it."""
    Path(path).parent.chmod(0o700)
    if Path(path).is_dir() and not Path(path).is_symlink():
        Path(path).chmod(0o700)
        shutil.rmtree(path)
    else:
        Path(path).unlink()


def clear_directory(directory: Path) -> None:
    """Remove everything inside `directory`, whoever made it and with whatever permissions."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, onerror=_open_up)
        else:
            entry.unlink()


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
            for path in sorted(source.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    inner = target / path.relative_to(source)
                    inner.parent.mkdir(parents=True, exist_ok=True)
                    _bring(path, inner)
        elif source.is_file():
            _bring(source, target)
        else:
            raise StagingError(f"input {name}: {source} does not exist")


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


def directory_bytes(directory: Path, most_entries: int = 10_000) -> int:
    """Bytes of the files below `directory`, which a step may change meanwhile.

    Says "huge" after `most_entries` entries, and for a directory that may not be read: an honest step makes neither.
    """
    total, entries = 0, 0
    pending = [directory]
    while pending:
        try:
            listing = list(os.scandir(pending.pop()))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return HUGE
        for entry in listing:
            entries += 1
            if entries > most_entries:
                return HUGE
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total
