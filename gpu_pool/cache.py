"""The node cache: shared work of all campaigns of a machine, by content key.

Invariant: a directory under `models/` is complete, because it is filled elsewhere and renamed into place; its name is a
hash of everything that its content depends on. Sandboxes see `models/` read-only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.config import Pool
from cluster.trees import remove_tree

_PAUSE_SHARE = 8


def least_free_bytes(pool: Pool) -> int:
    """With less free space than this a campaign that runs is paused: an eighth of what it needs to start."""
    return int(pool.min_free_disk_gb * (1 << 30)) // _PAUSE_SHARE


@dataclass(frozen=True, slots=True)
class NodeCache:
    """Where a node keeps shared work."""

    root: Path

    @classmethod
    def of(cls, pool: Pool) -> NodeCache:
        """The cache that the configuration names, else `$XDG_CACHE_HOME/aar-cluster` or `~/.cache/aar-cluster`."""
        if pool.cache_dir is not None:
            root = Path(pool.cache_dir)
        else:
            root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "aar-cluster"
        cache = cls(root)
        if not cache.models.is_dir():
            cache.models.mkdir(parents=True, exist_ok=True)
            cache.models.chmod(0o755)  # whatever the umask: sandboxes read it as another user
        return cache

    @property
    def models(self) -> Path:
        """Pretrained models and what is computed from them alone; nothing secret may stand here."""
        return self.root / "models"

    def entry(self, key: str) -> Path:
        """The directory of a key, whether or not it is there yet."""
        return self.models / key

    def has(self, key: str) -> bool:
        """Whether the entry is complete."""
        return self.entry(key).is_dir()

    @contextmanager
    def building(self, key: str) -> Iterator[Path]:
        """A directory to fill; when the block ends well it becomes the entry, unless somebody was faster."""
        directory = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self.models))
        try:
            yield directory
            for path in [directory, *directory.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
            try:
                directory.rename(self.entry(key))
            except OSError:
                if not self.has(key):
                    raise
        finally:
            remove_tree(directory)
