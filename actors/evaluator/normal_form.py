"""What a method does, as far as its text tells: one hash for all ways to write it down.

Two programs have one form when they differ only in what `dead_code` takes out, in definitions, imports and files that
nothing reaches from `train`, in the order of definitions, in names (of functions, classes, constants, parameters,
variables, modules), in constants that have a name or none, or in the order of keyword arguments that have no effect.
The form is for telling copies, never for running: what runs is `source.program`. Whoever looks names up while running
(`locals`, `eval`, frames) is compared name by name. Copies that no form can show (a number times one) are told by what
their students answer: see `entrants`.

A definition's text has gaps where it names other definitions; with their hashes in the gaps it has a hash of all that
it reaches, in whatever order and under whatever name that stands.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actors.evaluator.dead_code import is_free, simplified

MAIN, ENTRY = "method", "train"
_BY_NAME = frozenset(["__import__", "compile", "dir", "eval", "exec", "globals", "locals", "vars"])
_BY_ATTRIBUTE = frozenset(
    ["__code__", "__dict__", "__globals__", "__name__", "__qualname__", "_getframe", "co_varnames", "f_locals"]
)
_BY_MODULE = frozenset(["ast", "dis", "gc", "inspect", "traceback", "importlib"])
_LISTS_FILES = re.compile(r"\b(listdir|scandir|iterdir|glob|rglob|walk)\b")


@dataclass(frozen=True)
class Ref:
    """A gap in a text: the definition `name` of `module`."""

    module: str
    name: str


@dataclass(frozen=True)
class Dotted:
    """What an import binds: a module, or something in it."""

    path: str


Text = tuple[str | Ref, ...]


class _Module:
    """One file: what its names stand for, and the statements that run when it is imported."""

    def __init__(self, name: str, tree: ast.Module, local: frozenset[str]) -> None:
        self.name = name
        self.imports: dict[str, Dotted] = {}
        self.defined: dict[str, ast.stmt] = {}
        self.effects: list[ast.stmt] = []
        self.needs: list[str] = []
        rebound = _rebound(tree)
        for statement in tree.body:
            self._take(statement, rebound, local)

    def _take(self, node: ast.stmt, rebound: set[str], local: frozenset[str]) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound = imported(node)
            self.needs += [path for path in _imported_modules(node) if path in local]
            if "*" in bound:
                self.effects.append(node)
            self.imports |= {name: path for name, path in bound.items() if name not in rebound and name != "*"}
            return
        name = _defines(node)
        if name is None or name in rebound:
            self.effects.append(node)
        else:
            self.defined[name] = node


class _Program:
    """All modules of a method."""

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        names = frozenset(trees)
        self.modules = {name: _Module(name, tree, names) for name, tree in trees.items()}
        self._texts: dict[Ref, Text] = {}

    def resolve(self, module: str, name: str) -> Ref | Dotted | None:
        """What a name at the top level of a module stands for, through imports from the method's own files."""
        seen: set[tuple[str, str]] = set()
        while (module, name) not in seen and module in self.modules:
            seen.add((module, name))
            own = self.modules[module]
            if name in own.defined:
                return Ref(module, name)
            if name not in own.imports:
                return None
            path = own.imports[name].path
            before, _, last = path.rpartition(".")
            if before not in self.modules:
                return Dotted(path)
            module, name = before, last
        return None

    def text(self, ref: Ref) -> Text:
        """The text of a definition."""
        if ref not in self._texts:
            self._texts[ref] = _Writer(self, ref.module, self.modules[ref.module].defined[ref.name]).parts
        return self._texts[ref]

    def effects(self, module: str) -> list[Text]:
        """The texts of what runs when a module is imported."""
        return [_Writer(self, module, statement).parts for statement in self.modules[module].effects]

    def form(self) -> list[str]:
        """Hashes of the entry and of the effects of every module that is reached, in an order without names."""
        hashes: dict[Ref, str] = {}
        modules: dict[str, str] = {}
        first = [self._hash(Ref(MAIN, ENTRY), hashes)]
        todo = [MAIN]
        while todo:
            name = todo.pop()
            if name in self.modules and name not in modules:
                modules[name] = "\n".join(self._filled(text, hashes) for text in self.effects(name))
                todo += [*self.modules[name].needs, *(ref.module for ref in hashes)]
        others = sorted(text for name, text in modules.items() if name != MAIN and text)
        return [*first, modules[MAIN], *others]

    def _hash(self, ref: Ref, hashes: dict[Ref, str]) -> str:
        """The hash of a definition and all that it reaches; what is being hashed already counts by its own text."""
        if ref not in hashes:
            if ref.name not in self.modules[ref.module].defined:
                return "missing"
            hashes[ref] = hashlib.sha256(
                "\0".join(p for p in self.text(ref) if isinstance(p, str)).encode()
            ).hexdigest()
            hashes[ref] = self._filled(self.text(ref), hashes)
        return hashes[ref]

    def _filled(self, text: Text, hashes: dict[Ref, str]) -> str:
        parts = [part if isinstance(part, str) else "\1" + self._hash(part, hashes) for part in text]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def normal_form(files: Mapping[str, bytes]) -> bytes:
    """A digest of what the files of a method do; they can be parsed. Raises `RecursionError` for too deep a tree."""
    trees = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): simplified(ast.parse(data))
        for path, data in sorted(files.items())
        if path.endswith(".py")
    }
    if any(_looks_names_up(tree) for tree in trees.values()):
        return hashlib.sha256(repr(sorted(files.items())).encode()).digest()
    form = _Program(trees).form()
    live = "\n".join(ast.dump(tree) for tree in trees.values())
    return hashlib.sha256(repr([form, _data(files, live)]).encode()).digest()


def _data(files: Mapping[str, bytes], live: str) -> list[tuple[str, bytes]]:
    """Files beside the code that it may read: those that it names, all of them when it lists folders."""
    listed = bool(_LISTS_FILES.search(live))
    found = []
    for path, data in sorted(files.items()):
        stem = path.rsplit("/", 1)[-1].split(".")[0]
        if not path.endswith(".py") and (listed or (stem and stem in live)):
            found.append((path, hashlib.sha256(data).digest()))
    return found


def _looks_names_up(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and (node.id in _BY_NAME or node.id == "__file__"):
            return True
        if isinstance(node, ast.Attribute) and node.attr in _BY_ATTRIBUTE:
            return True
        paths = _imported_modules(node) if isinstance(node, ast.Import | ast.ImportFrom) else []
        if any(path.split(".")[0] in _BY_MODULE for path in paths):
            return True
    return False


def imported(node: ast.Import | ast.ImportFrom) -> dict[str, Dotted]:
    """The names that an import binds, and what each stands for."""
    if isinstance(node, ast.ImportFrom):
        before = "." * node.level + (node.module or "")
        before = before.lstrip(".") if node.level == 1 else before  # the method's files lie side by side
        return {a.asname or a.name: Dotted(f"{before}.{a.name}".lstrip(".")) for a in node.names}
    return {a.asname or a.name.split(".")[0]: Dotted(a.name if a.asname else a.name.split(".")[0]) for a in node.names}


def _imported_modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        return [base, *(f"{base}.{a.name}".lstrip(".") for a in node.names)]
    return [a.name for a in node.names]


def _defines(node: ast.stmt) -> str | None:
    """The one name that a statement without effect defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and is_free(node.value):
        target = node.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    return None


def _rebound(tree: ast.Module) -> set[str]:
    """Names of the top level that are given more than one value, or one from within a function."""
    seen: set[str] = set()
    twice: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [*imported(node)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        else:
            names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
            if _defines(node) is None:
                twice |= set(names)  # part of a statement that has an effect
        twice |= seen & set(names)
        seen |= set(names)
    return twice | {name for n in ast.walk(tree) if isinstance(n, ast.Global) for name in n.names}


class _Writer:
    """Writes one statement of the top level as text with gaps; its own names become numbers, in order of appearance."""

    def __init__(self, program: _Program, module: str, node: ast.stmt) -> None:
        self._program, self._module = program, module
        self._top = node
        self._mine, self._own = _bound_inside(node), _own(node)
        self._inside = {name: path for name, path in _imports_inside(node).items() if self._mine.get(name) == 1}
        self._numbers: dict[str, int] = {}
        self._parts: list[str | Ref] = []
        self._class_body = False
        self._write(node)
        self.parts: Text = tuple(self._parts)

    def _number(self, name: str) -> str:
        return f"L{self._numbers.setdefault(name, len(self._numbers))}"

    def _write(self, node: object) -> None:
        if isinstance(node, ast.expr) and (found := self._from_import(node)) is not None:
            self._parts.append(found)
        elif isinstance(node, ast.Name):
            self._name(node)
        elif isinstance(node, ast.Constant):
            self._parts.append(f"{type(node.value).__name__}:{node.value!r}")
        elif isinstance(node, list):
            written = [one for one in node if not self._known_import(one)]
            self._parts.append(f"[{len(written)}")
            for one in written:
                self._write(one)
        elif isinstance(node, ast.AST):
            self._node(node)
        else:
            self._parts.append(repr(node))

    def _node(self, node: ast.AST) -> None:
        self._parts.append(type(node).__name__)
        was = self._class_body
        for name, value in self._fields(node):
            self._parts.append(name)
            self._write(value)
            if name == "name" or isinstance(node, ast.Lambda):
                self._class_body = isinstance(node, ast.ClassDef)  # its own name belongs to where it stands
        self._class_body = was

    def _known_import(self, node: object) -> bool:
        """An import within a function of which every use is written as what was imported."""
        return isinstance(node, ast.Import | ast.ImportFrom) and set(imported(node)) <= set(self._inside)

    def _fields(self, node: ast.AST) -> Iterator[tuple[str, object]]:
        """The fields of a node with its names as they are written."""
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "type_comment", "kind", "simple") or (name == "type_params" and not value):
                continue
            if name == "keywords" and isinstance(node, ast.Call):
                yield name, sorted(value, key=_keyword) if all(is_free(k.value) for k in value) else value
            elif name == "name" and node is self._top:
                yield name, ""
            elif name in ("name", "arg", "rest") and isinstance(value, str) and not isinstance(node, ast.keyword):
                yield name, value if self._class_body or value not in self._mine else ast.Name(value)
            else:
                yield name, value

    def _name(self, node: ast.Name) -> None:
        name = node.id
        if name in self._mine and not self._class_body:
            self._parts.append(self._number(name))
            if name in self._own or (name not in self._inside and self._program.resolve(self._module, name) is None):
                return  # a name of this definition alone
        found = self._program.resolve(self._module, name)
        if isinstance(found, Ref) and not self._literal(found):
            self._parts.append("itself" if self._is_top(found) else found)
        elif not isinstance(found, Ref):
            self._parts.append(f"G:{name}")

    def _is_top(self, ref: Ref) -> bool:
        return ref.module == self._module and _defines(self._top) == ref.name

    def _literal(self, ref: Ref) -> bool:
        """Write a constant that has a name as the constant it is."""
        value = self._program.modules[ref.module].defined[ref.name]
        if isinstance(value, ast.Assign) and isinstance(value.value, ast.Constant) and value is not self._top:
            self._write(value.value)
            return True
        return False

    def _from_import(self, node: ast.expr) -> str | Ref | None:
        """The path of something that was imported, however it was imported and called here."""
        tail: list[str] = []
        while isinstance(node, ast.Attribute):
            tail.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        if node.id in self._inside:
            start: Ref | Dotted | None = self._inside[node.id]
        elif node.id in self._mine:
            return None
        else:
            start = self._program.resolve(self._module, node.id)
        if not isinstance(start, Dotted):
            return None
        path = ".".join([start.path, *reversed(tail)])
        before, _, last = path.rpartition(".")
        found = self._program.resolve(before, last) if before in self._program.modules else None
        return found if isinstance(found, Ref) else f"I:{path}"


def _keyword(node: ast.keyword) -> str:
    return node.arg or ""


def _bound_inside(node: ast.stmt) -> dict[str, int]:
    """Names that functions in a statement of the top level bind, parameters too, and how often."""
    found: dict[str, int] = {}
    classes = {id(s) for n in ast.walk(node) if isinstance(n, ast.ClassDef) for s in n.body}
    outer = {name for n in ast.walk(node) if isinstance(n, ast.Global) for name in n.names}
    at_top = not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)

    def take(name: str | None) -> None:
        if name is not None and name not in outer:
            found[name] = found.get(name, 0) + 1

    def visit(one: ast.AST, free: bool) -> None:
        inside = isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.comprehension)
        if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Load) and not free:
            take(one.id)
        elif isinstance(one, ast.arg):
            take(one.arg)
        elif isinstance(one, ast.Import | ast.ImportFrom) and not free:
            for name in imported(one):
                take(name)
        elif isinstance(one, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and not free:
            take(one.name)
        elif isinstance(one, ast.MatchMapping) and not free:
            take(one.rest)
        elif (
            isinstance(one, ast.FunctionDef | ast.ClassDef) and one is not node and id(one) not in classes and not free
        ):
            take(one.name)
        for child in ast.iter_child_nodes(one):
            visit(child, (free or isinstance(one, ast.ClassDef)) and not inside)

    visit(node, at_top)
    return found


def _own(node: ast.stmt) -> set[str]:
    """Names of a function itself: whatever stands within it, by them it never means those of the module."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return set()
    arguments = node.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    found = {argument.arg for argument in given if argument is not None}
    nested = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
              ast.GeneratorExp)  # fmt: skip
    todo: list[ast.AST] = list(node.body)
    while todo:
        one = todo.pop()
        if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Load):
            found.add(one.id)
        elif not isinstance(one, nested):
            todo += ast.iter_child_nodes(one)
    return found - {name for n in ast.walk(node) if isinstance(n, ast.Global) for name in n.names}


def _imports_inside(node: ast.stmt) -> dict[str, Dotted]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {}
    inner = (n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom))
    return {name: path for n in inner for name, path in imported(n).items() if name != "*"}
