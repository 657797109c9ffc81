"""A method file on its way out of the workspace: read safely and checked without running it."""

from __future__ import annotations

import ast

from actors.researcher.workspace import MAX_METHOD_BYTES, Workspace
from cluster.errors import Reason, RefusedError


def read_method(workspace: Workspace, path: str) -> str:
    """The text of a method file. Raises `RefusedError` (as `Workspace.read_text`, and those of `check_method`)."""
    text = workspace.read_text(path, MAX_METHOD_BYTES)
    check_method(text, path)
    return text


def check_method(text: str, path: str) -> None:
    """Refuse a text that cannot be a method: `syntax_error` with its line, or `no_train` without `train(run)`."""
    try:
        tree = ast.parse(text, filename=path)
    except SyntaxError as error:
        where = f"{path}:{error.lineno}" if error.lineno else path
        raise RefusedError(Reason.SYNTAX_ERROR, f"{where}: {error.msg}", {"line": error.lineno or 0}) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(Reason.SYNTAX_ERROR, f"{path}: cannot be parsed: {error}") from error
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "train" not in names:
        raise RefusedError(Reason.NO_TRAIN, f"{path}: a method file defines `def train(run)` at its top level")
