"""The copy of the project's code that a sandbox sees: an allow-list, nothing else.

The generators of the domains know the truth's world and stay outside; so do the actors, the stores and the scripts. The
copy's name is the hash of its content, which stands in records as the version of the engine.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from cluster.trees import remove_tree

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = (
    "cluster/__init__.py",
    "cluster/errors.py",
    "cluster/openat2.py",
    "cluster/training.py",
    "cluster/trees.py",
    "cluster/wire.py",
    "cluster/sandbox/errors.py",
    "cluster/sandbox/seccomp.py",
    "gpu_pool/__init__.py",
    "gpu_pool/child/*.py",
    "gpu_pool/weak_to_strong/*.py",
    "gpu_pool/weak_to_strong/blocks/*.py",
    "gpu_pool/weak_to_strong/methods/*.py",
    "gpu_pool/weak_to_strong/models/*.py",
    "gpu_pool/weak_to_strong/training/*.py",
)
"""Patterns of files; `gpu_pool/weak_to_strong/domains` and `tasks`, which hold truth, must never be added."""
_EMPTY_PACKAGES = ("cluster/sandbox/__init__.py",)
"""Packages whose own `__init__` would import what a sandbox must not have."""


def library_files() -> dict[str, bytes]:
    """Relative path and content of every allowed file."""
    files = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for pattern in ALLOWED
        for path in sorted(ROOT.glob(pattern))
        if path.is_file()
    }
    files.update(dict.fromkeys(_EMPTY_PACKAGES, b""))
    return files


def engine_version() -> str:
    """Sixteen hexadecimal digits over the names and contents of the allowed files."""
    digest = hashlib.sha256()
    for name, data in sorted(library_files().items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def materialise(cache_dir: Path) -> Path:
    """The directory `<cache_dir>/library-<version>` with the allowed files, made once, world-readable."""
    target = cache_dir / f"library-{engine_version()}"
    if target.is_dir():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=cache_dir))
    for name, data in library_files().items():
        path = building / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in [building, *building.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        building.rename(target)
    except OSError:
        # Another slot of this node was faster; its copy has the same content by name.
        remove_tree(building)
    return target
