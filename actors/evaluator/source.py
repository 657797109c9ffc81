"""A method as text: what is accepted, and when two submissions are the same method.

Accepted: `method.py` with a function `train` at its top level, other text files beside it, 64 KiB in all (more room
would hold a table of labels). What runs is written anew from the syntax trees, without comments, docstrings and layout
(`program`), and the code hash is that of exactly these bytes: an answer cannot be rolled again by adding a blank, and
two submissions of one hash are one program, whatever they read of themselves.

The entrant is the hash of what a program does, as far as its text tells (`normal_form`): whoever adds a number that
nobody reads, or gives a variable another name, enters nothing new. It is for telling copies; what runs is the program.
"""

from __future__ import annotations

import ast
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from actors.evaluator.normal_form import normal_form
from cluster.errors import LimitExceeded, Reason, RefusedError
from cluster.file_kind import known_kind, why_not_text
from cluster.objects import ObjectError, ObjectStore
from cluster.wire import WireError, pack

MAX_BYTES = 64 * 1024
MAX_FILES = 32


@dataclass(frozen=True, slots=True)
class Method:
    """A method that may be scored: its snapshot in the object store, its hash and its name for people.

    `entrant` is the same for copies of one method; none where a campaign goes by code alone, as the first ones did.
    """

    snapshot: str
    code_hash: str
    name: str
    entrant: str = ""

    @property
    def identity(self) -> str:
        """What one answer and one place are given to."""
        return self.entrant or self.code_hash

    @property
    def seeded_by(self) -> str:
        """What training seeds depend on beside tier, domain and number: nothing, or the code where it counts alone.

        Methods that share seeds, teachers and batches can be compared answer by answer, and noise cannot be drawn
        again by writing the same thing in another way.
        """
        return "" if self.entrant else self.code_hash


def read_method(objects: ObjectStore, snapshot: str, name: str, task_version: str) -> Method:
    """Check a snapshot. Raises `RefusedError` (`unknown_snapshot`, `too_large`, `bad_method`) with what to mend."""
    try:
        listed = objects.list_tree(snapshot)
        total = sum(size for _, _, size in listed)
        if total > MAX_BYTES or len(listed) > MAX_FILES:
            message = f"{total} bytes in {len(listed)} files; at most {MAX_BYTES} in {MAX_FILES} are scored"
            exceeded = LimitExceeded("bytes", f"snapshot {snapshot[:16]}", MAX_BYTES, total, "evaluator")
            raise RefusedError(Reason.TOO_LARGE, message, {"bytes": total, "limit": MAX_BYTES}, exceeded)
        files = objects.get_tree(snapshot)
    except (ObjectError, WireError) as error:
        if _stored(objects, snapshot):
            raise RefusedError(Reason.BAD_METHOD, f"snapshot {snapshot[:16]} is no tree of files: {error}") from error
        raise RefusedError(Reason.UNKNOWN_SNAPSHOT, f"no snapshot {snapshot[:16]}: push the code first") from error
    for path, data in files.items():
        _check_text(path, data)
    return Method(snapshot, code_hash(files, task_version), _clean(name), entrant(files, task_version))


def _stored(objects: ObjectStore, snapshot: str) -> bool:
    try:
        return objects.has(snapshot)
    except ObjectError:
        return False


def _check_text(path: str, data: bytes) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(Reason.BAD_METHOD, f"{path}: {why_not_text(data, error)}", {"file": path}) from error
    if "\0" in text:
        kind = known_kind(data) or "not a text file: it holds a NUL"
        raise RefusedError(Reason.BAD_METHOD, f"{path}: {kind}", {"file": path})


def code_hash(files: Mapping[str, bytes], task_version: str) -> str:
    """The hash of what runs of a method. Raises `RefusedError` for what cannot be a method."""
    if "method.py" not in files:
        raise RefusedError(Reason.BAD_METHOD, "there is no method.py in the snapshot", {"files": sorted(files)[:20]})
    if sum(map(len, files.values())) > MAX_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"at most {MAX_BYTES} bytes are scored", {"limit": MAX_BYTES})
    _check_train(_parse("method.py", files["method.py"]))
    parts = [[path, hashlib.sha256(data).hexdigest()] for path, data in program(files).items()]
    return hashlib.sha256(pack([task_version, parts])).hexdigest()


def entrant(files: Mapping[str, bytes], task_version: str) -> str:
    """The hash of what a method does as far as its text tells; that of its program where trees are too deep for that.

    For files that `code_hash` accepts.
    """
    written = program(files)
    try:
        form = normal_form(written)
    except RecursionError:
        form = code_hash(files, task_version).encode()
    return hashlib.sha256(pack([task_version, form])).hexdigest()


def program(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that run, by path in order: Python as its syntax tree says it, all else byte for byte.

    Raises `RefusedError` for Python that cannot be written anew.
    """
    return {path: _written(path, data) if path.endswith(".py") else data for path, data in sorted(files.items())}


def program_bytes(files: Mapping[str, bytes]) -> int:
    """How much information the program of a method holds, names included: its bytes after compression."""
    text = b"\n".join(path.encode() + b"\n" + data for path, data in program(files).items())
    return len(zlib.compress(text, 9))


def _parse(path: str, data: bytes) -> ast.Module:
    try:
        return ast.parse(data.decode("utf-8"), filename=path)
    except SyntaxError as error:
        detail = {"file": path, "line": error.lineno}
        raise RefusedError(Reason.BAD_METHOD, f"{path}, line {error.lineno}: {error.msg}", detail) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(Reason.BAD_METHOD, f"{path}: not readable as Python: {error}", {"file": path}) from error


def _check_train(tree: ast.Module) -> None:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "train":
            if node.args.args or node.args.posonlyargs or node.args.vararg:
                return
            raise RefusedError(Reason.BAD_METHOD, f"method.py, line {node.lineno}: train takes one argument, the run")
    raise RefusedError(
        Reason.BAD_METHOD, "method.py has no function `train` at its top level: def train(run) -> Student"
    )


def _written(path: str, data: bytes) -> bytes:
    """The source of a file's syntax tree, which means the same when it is read again."""
    tree = _parse(path, data)
    try:
        _drop_strings(tree)
        text = ast.unparse(tree) + "\n"
        if ast.dump(ast.parse(text)) == ast.dump(tree):
            return text.encode("utf-8")
    except (ValueError, RecursionError, MemoryError, SyntaxError) as error:
        message = f"{path}: cannot be written anew from its syntax tree: {error}"
        raise RefusedError(Reason.BAD_METHOD, message, {"file": path}) from error
    message = f"{path}: reads differently when it is written anew from its syntax tree; simplify its literals"
    raise RefusedError(Reason.BAD_METHOD, message, {"file": path})


def _drop_strings(tree: ast.Module) -> None:
    """Take out every statement that is a string and nothing else: docstrings, and whatever stands like one."""
    for node in list(ast.walk(tree)):
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and any(isinstance(child, ast.stmt) for child in value):
                kept = [child for child in value if not _is_string(child)]
                setattr(node, name, kept or [ast.Pass()])


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _clean(name: str) -> str:
    """A name that is safe to show: printable ASCII, at most 60 characters."""
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in name).strip()
    return shown[:60] or "unnamed"
