"""What a sandboxed interpreter of this environment needs to see, and no more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.sandbox.spec import Bind

_SYSTEM = (Path("/usr"), Path("/bin"), Path("/lib"), Path("/lib64"))


def _links(path: Path) -> list[Path]:
    """The chain of symbolic links from `path` to the file itself, each as written."""
    chain = [path]
    while chain[-1].is_symlink() and len(chain) < 16:
        target = chain[-1].readlink()
        chain.append(target if target.is_absolute() else chain[-1].parent / target)
    return chain


def python_binds(executable: str | None = None, prefixes: Sequence[Path] = ()) -> tuple[Bind, ...]:
    """Read-only binds of a virtual environment and its base interpreter, at their original paths.

    By default of this one: run `sys.executable` in the sandbox, and its site-packages, compiled libraries and console
    scripts work unchanged. Of another interpreter give its path and its prefixes. What lies in /usr is visible anyway;
    of the home directory only these prefixes are. An editable installation is not included: bind its folder yourself.
    """
    binds: dict[str, Bind] = {}
    prefixes = prefixes or [Path(sys.prefix), Path(sys.base_prefix), Path(sys.base_exec_prefix)]
    for path in [*prefixes, *(prefix.resolve() for prefix in prefixes), *_links(Path(executable or sys.executable))]:
        covered = any(path.is_relative_to(place) for place in (*_SYSTEM, *map(Path, binds)))
        if not covered and path.exists():
            binds[str(path)] = Bind(str(path.resolve()), str(path))
    return tuple(binds.values())
