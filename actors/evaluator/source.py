"""A method as text: what is accepted, and when two submissions are the same method.

Accepted: `method.py` with a function `train` at its top level, other text files beside it, 64 KiB in all (more room
would hold a table of labels). The code hash is taken over syntax trees without comments, docstrings and layout, so that
an answer cannot be rolled again by adding a blank; whatever runs under a hash is the first snapshot that had it.
"""

from __future__ import annotations

import ast
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.errors import RefusedError
from cluster.objects import ObjectError, ObjectStore
from cluster.wire import WireError, pack

MAX_BYTES = 64 * 1024
MAX_FILES = 32
_DOCUMENTED = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class Method:
    """A method that may be scored: its snapshot in the object store, its hash and its name for people."""

    snapshot: str
    code_hash: str
    name: str


def read_method(objects: ObjectStore, snapshot: str, name: str, task_version: str) -> Method:
    """Check a snapshot. Raises `RefusedError` (`unknown_snapshot`, `too_large`, `bad_method`) with what to mend."""
    try:
        listed = objects.list_tree(snapshot)
        total = sum(size for _, _, size in listed)
        if total > MAX_BYTES or len(listed) > MAX_FILES:
            message = f"{total} bytes in {len(listed)} files; at most {MAX_BYTES} in {MAX_FILES} are scored"
            raise RefusedError("too_large", message, {"bytes": total, "limit": MAX_BYTES})
        files = objects.get_tree(snapshot)
    except (ObjectError, WireError) as error:
        if _stored(objects, snapshot):
            raise RefusedError("bad_method", f"snapshot {snapshot[:16]} is no tree of files: {error}") from error
        raise RefusedError("unknown_snapshot", f"no snapshot {snapshot[:16]}: push the code first") from error
    for path, data in files.items():
        _check_text(path, data)
    return Method(snapshot, code_hash(files, task_version), _clean(name))


def _stored(objects: ObjectStore, snapshot: str) -> bool:
    try:
        return objects.has(snapshot)
    except ObjectError:
        return False


def _check_text(path: str, data: bytes) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError("bad_method", f"{path}: not a text file: {error.reason}", {"file": path}) from error
    if "\0" in text:
        raise RefusedError("bad_method", f"{path}: not a text file: it holds a NUL", {"file": path})


def code_hash(files: Mapping[str, bytes], task_version: str) -> str:
    """The hash of a method's meaning. Raises `RefusedError` for what cannot be a method."""
    if "method.py" not in files:
        raise RefusedError("bad_method", "there is no method.py in the snapshot", {"files": sorted(files)[:20]})
    if sum(map(len, files.values())) > MAX_BYTES:
        raise RefusedError("too_large", f"at most {MAX_BYTES} bytes are scored", {"limit": MAX_BYTES})
    parts: list[list[str]] = []
    for path, data in sorted(files.items()):
        tree = _parse(path, data) if path.endswith(".py") else None
        if path == "method.py" and tree is not None:
            _check_train(tree)
        parts.append([path, hashlib.sha256(data).hexdigest() if tree is None else _dump(path, tree)])
    return hashlib.sha256(pack([task_version, parts])).hexdigest()


def constant_bytes(files: Mapping[str, bytes]) -> int:
    """How much information the literals of a method hold, docstrings apart: their bytes after compression."""
    found: list[str] = []
    for path, data in sorted(files.items()):
        if not path.endswith(".py"):
            found.append(repr(data))
            continue
        tree = _parse(path, data)
        _drop_docstrings(tree)
        found += [repr(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return len(zlib.compress("\n".join(found).encode("utf-8", "surrogatepass"), 9))


def _parse(path: str, data: bytes) -> ast.Module:
    try:
        return ast.parse(data.decode("utf-8"), filename=path)
    except SyntaxError as error:
        detail = {"file": path, "line": error.lineno}
        raise RefusedError("bad_method", f"{path}, line {error.lineno}: {error.msg}", detail) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RefusedError("bad_method", f"{path}: not readable as Python: {error}", {"file": path}) from error


def _check_train(tree: ast.Module) -> None:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "train":
            if node.args.args or node.args.posonlyargs or node.args.vararg:
                return
            raise RefusedError("bad_method", f"method.py, line {node.lineno}: train takes one argument, the run")
    raise RefusedError("bad_method", "method.py has no function `train` at its top level: def train(run) -> Student")


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]


def _dump(path: str, tree: ast.Module) -> str:
    _drop_docstrings(tree)
    try:
        return hashlib.sha256(ast.dump(tree, annotate_fields=False).encode("utf-8", "surrogatepass")).hexdigest()
    except RecursionError as error:
        raise RefusedError("bad_method", f"{path}: nested too deeply", {"file": path}) from error


def _clean(name: str) -> str:
    """A name that is safe to show: printable ASCII, at most 60 characters."""
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in name).strip()
    return shown[:60] or "unnamed"
