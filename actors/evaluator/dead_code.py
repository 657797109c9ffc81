"""What of a method's syntax tree can make no difference: it is taken out, and literals are computed.

Taken out: statements that only look something up, assignments that nobody reads, branches and loops that constants rule
out, what stands behind a `return`, annotations of functions, messages (`print`, the run's `log`). An expression counts
as free of effects when it is built from names, literals, operators, attributes and the plain builtins in `_PLAIN`; that
a property or an operator may be written to have an effect is ignored, so the result is for comparing, not for running.
"""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

_ROUNDS = 20
_MOST = 10**12
_PLAIN = frozenset(
    ["abs", "bool", "dict", "float", "int", "len", "list", "max", "min", "range", "round", "set", "str", "sum", "tuple"]
)
_TRANSPARENT = (
    ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Attribute,
    ast.Subscript, ast.Slice, ast.Starred, ast.JoinedStr, ast.FormattedValue,
)  # fmt: skip
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def simplified(tree: ast.Module) -> ast.Module:
    """A tree without what makes no difference; `tree` itself may change. The unused at the top level stays."""
    before = ""
    for _ in range(_ROUNDS):
        tree = _Folder().visit(tree)
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                _drop_unread(statement)
        after = ast.dump(tree)
        if after == before:
            break
        before = after
    return tree


def is_free(node: ast.AST | None) -> bool:
    """Whether an expression has no effect but its value."""
    if node is None or isinstance(node, ast.Constant | ast.Name | ast.Lambda | ast.expr_context | ast.operator):
        return True
    if isinstance(node, ast.Call):
        plain = isinstance(node.func, ast.Name) and node.func.id in _PLAIN
        return plain and all(map(is_free, node.args)) and all(is_free(keyword.value) for keyword in node.keywords)
    if isinstance(node, ast.unaryop | ast.boolop | ast.cmpop):
        return True
    return isinstance(node, _TRANSPARENT) and all(is_free(child) for child in ast.iter_child_nodes(node))


class _Folder(ast.NodeTransformer):
    """Computes literals, and takes out statements that do nothing where they stand."""

    def __init__(self) -> None:
        self._run = ""
        """The name of the run in `train`."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Visit the children, then clean every list of statements."""
        found = super().generic_visit(node)
        for name, value in ast.iter_fields(found):
            if isinstance(value, list) and (
                any(isinstance(child, ast.stmt) for child in value) or (not value and name == "body")
            ):
                kept = self._cleaned(value)
                needed = name == "body" and not isinstance(found, ast.Module)
                setattr(found, name, kept or ([ast.Pass()] if needed else []))
        return found

    def _cleaned(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Statements without those that do nothing, and up to the first that is the last to run."""
        kept: list[ast.stmt] = []
        for statement in statements:
            if self._idle(statement):
                continue
            kept.append(statement)
            if isinstance(statement, ast.Return | ast.Raise | ast.Continue | ast.Break):
                break
        return kept

    def _idle(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Pass):
            return True
        if isinstance(node, ast.Expr):
            return is_free(node.value) or self._message(node.value)
        if isinstance(node, ast.Assert):
            return isinstance(node.test, ast.Constant) and bool(node.test.value)
        if isinstance(node, ast.Assign):
            return all(_same_name(target, node.value) for target in node.targets)
        if isinstance(node, ast.If):
            return is_free(node.test) and _empty(node.body) and not node.orelse
        return False

    def _message(self, node: ast.expr) -> bool:
        """A message for people; it may say nothing that the method computes by an effect."""
        if not isinstance(node, ast.Call):
            return False
        to = node.func
        printed = isinstance(to, ast.Name) and to.id == "print"
        logged = isinstance(to, ast.Attribute) and to.attr == "log" and isinstance(to.value, ast.Name)
        if not (printed or (logged and self._run and to.value.id == self._run)):  # type: ignore[attr-defined]
            return False
        return all(map(is_free, node.args)) and all(is_free(keyword.value) for keyword in node.keywords)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Annotations of a function change nothing that runs."""
        outer = self._run
        if node.name == "train" and node.args.posonlyargs + node.args.args:
            self._run = (node.args.posonlyargs + node.args.args)[0].arg
        node.returns = None
        self.generic_visit(node)
        self._run = outer
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """See `visit_FunctionDef`."""
        node.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """The fields of a class may be made from annotations: those directly in it stay."""
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):
                statement.simple = -1
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        """Elsewhere an annotated assignment is an assignment."""
        self.generic_visit(node)
        if node.simple == -1:
            return node
        return None if node.value is None else ast.Assign([node.target], node.value)

    def visit_If(self, node: ast.If) -> Any:
        """A branch that a constant decides is its statements."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_While(self, node: ast.While) -> Any:
        """A loop that never begins is its `else`."""
        self.generic_visit(node)
        return node.orelse if isinstance(node.test, ast.Constant) and not node.test.value else node

    def visit_For(self, node: ast.For) -> Any:
        """A loop over nothing is its `else`."""
        self.generic_visit(node)
        return node.orelse if _no_items(node.iter) else node

    def visit_Try(self, node: ast.Try) -> Any:
        """Nothing that is tried cannot fail."""
        self.generic_visit(node)
        return [*node.orelse, *node.finalbody] if _empty(node.body) else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """The side that a constant chooses."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Constants that decide nothing fall out; one that decides ends it."""
        self.generic_visit(node)
        stops, kept = isinstance(node.op, ast.Or), list[ast.expr]()
        for number, value in enumerate(node.values):
            last = number == len(node.values) - 1
            if isinstance(value, ast.Constant) and bool(value.value) != stops and not last:
                continue
            kept.append(value)
            if isinstance(value, ast.Constant) and bool(value.value) == stops:
                break
        return kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Arithmetic of literals, as long as it stays small."""
        self.generic_visit(node)
        if isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant):
            return _computed(node, _BINARY.get(type(node.op)), node.left.value, node.right.value)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """The sign or opposite of a literal."""
        self.generic_visit(node)
        if isinstance(node.operand, ast.Constant):
            return _computed(node, _UNARY.get(type(node.op)), node.operand.value)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """A comparison of two literals."""
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.left, ast.Constant) and isinstance(node.comparators[0], ast.Constant):
            return _computed(node, _COMPARED.get(type(node.ops[0])), node.left.value, node.comparators[0].value)
        return node


def _computed(node: ast.expr, does: Callable[..., Any] | None, *values: Any) -> ast.expr:
    """The literal that `does` makes of numbers, or `node` as it was."""
    if does is None or not all(isinstance(v, int | float) and -_MOST < v < _MOST for v in values):
        return node
    try:
        return ast.Constant(does(*values))
    except (ArithmeticError, TypeError, ValueError):
        return node


def _same_name(target: ast.expr, value: ast.expr) -> bool:
    return isinstance(target, ast.Name) and isinstance(value, ast.Name) and target.id == value.id


def _empty(body: list[ast.stmt]) -> bool:
    return all(isinstance(statement, ast.Pass) for statement in body)


def _no_items(node: ast.expr) -> bool:
    """Whether a loop over `node` has no turn."""
    if isinstance(node, ast.Tuple | ast.List):
        return not node.elts
    if isinstance(node, ast.Dict):
        return not node.keys
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"):
        return isinstance(node, ast.Constant) and node.value in ("", b"")
    bounds = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, int)]
    return len(bounds) == len(node.args) in (1, 2) and not node.keywords and len(range(*bounds)) == 0


def _drop_unread(scope: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
    """Take out what a definition gives names that it never reads. Names of nested scopes are taken together."""
    read = Counter(n.id for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
    outer = {name for n in ast.walk(scope) if isinstance(n, ast.Global | ast.Nonlocal) for name in n.names}
    outer |= _changed_in_place(scope)
    for node in ast.walk(scope):
        if isinstance(node, ast.ClassDef):
            continue
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and any(isinstance(child, ast.stmt) for child in value):
                kept = [child for child in value if not _unread(child, read, outer)]
                setattr(node, name, kept or ([ast.Pass()] if name == "body" else []))


def _changed_in_place(scope: ast.AST) -> set[str]:
    """Names that `+=` and its like are used on and that may stand for something which others see change."""
    augmented = {
        n.target.id for n in ast.walk(scope) if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
    }
    literal = (
        target
        for n in ast.walk(scope)
        if isinstance(n, ast.Assign | ast.AugAssign) and isinstance(n.value, ast.Constant)
        for target in (n.targets if isinstance(n, ast.Assign) else [n.target])
    )
    safe = Counter(target.id for target in literal if isinstance(target, ast.Name))
    stored = Counter(n.id for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    given = {n.arg for n in ast.walk(scope) if isinstance(n, ast.arg)}
    return {name for name in augmented if name in given or stored[name] > safe[name]}


def _unread(node: ast.AST, read: Counter[str], outer: set[str]) -> bool:
    def never(name: str) -> bool:
        return not read[name] and name not in outer

    if isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return len(names) == len(node.targets) and all(map(never, names)) and is_free(node.value)
    if isinstance(node, ast.AugAssign):
        return isinstance(node.target, ast.Name) and never(node.target.id) and is_free(node.value)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return not node.decorator_list and never(node.name)
    if isinstance(node, ast.For):
        idle = is_free(node.iter) and _empty(node.body) and not node.orelse
        return idle and isinstance(node.target, ast.Name) and never(node.target.id)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return all(never((alias.asname or alias.name).split(".")[0]) and alias.name != "*" for alias in node.names)
    return False
