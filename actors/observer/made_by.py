"""A name for the version that derives what people read: two that bear it make the same files of the same journals."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path

MAKERS = ("matplotlib", "pyarrow", "jinja2")
"""The libraries that draw and write."""


@cache
def made_by() -> str:
    """A name for what derives the files: this package's sources and the libraries that draw and write."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(here.rglob("*")):
        if path.suffix in (".py", ".j2", ".css"):
            digest.update(path.relative_to(here).as_posix().encode() + b"\0" + path.read_bytes())
    for name in MAKERS:
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()
