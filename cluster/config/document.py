"""YAML as version 1.2 means it, read without surprises.

Promises: a number is a number and a word a word (`yes`, `off`, `1:30` and `2026-01-01` are text, `010` is ten, `1e-4`
is a number); a key stands once in its section and is text; aliases and merge keys cannot make a small text large; what
is wrong is a `ConfigError` with its line. What `write_document` writes, `read_document` reads back as it was, and so
do readers that keep to version 1.1.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from cluster.errors import AarError

MOST_BYTES = 1 << 20
"""Largest text: a hundred times the largest configuration that is shipped."""
MOST_VALUES = 100_000
"""Most values when every alias counts as what it stands for: nine aliases, ten deep, are a thousand million."""
_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)
"""The core schema of YAML 1.2: tag, text, first characters; and the merge key, which people know from 1.1."""


class ConfigError(AarError):
    """A configuration that cannot be used; the text lists each field, its value and what was expected."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {**yaml.SafeDumper.yaml_implicit_resolvers}  # noqa: RUF012


for _name, _text, _first in _CORE:
    # PyYAML's `add_implicit_resolver` looks an empty text up under "", not under a NUL.
    _chars = ["" if char == "\0" else char for char in _first]
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_text})\\Z"), _chars)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    try:
        return int(text, base)
    except ValueError as error:  # also a number of thousands of digits
        raise _problem(node, f"{text[:40]!r} is no integer") from error


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan")
    try:
        return float(text)
    except ValueError as error:
        raise _problem(node, f"{text[:40]!r} is no number") from error


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    text = str(loader.construct_scalar(node)).lower()
    if text not in ("true", "false"):
        raise _problem(node, f"{text[:40]!r} is neither true nor false")
    return text == "true"


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """A section whose keys were checked; keys of its own go before merged ones."""
    loader.flatten_mapping(node)
    return {str(key.value): loader.construct_object(value, deep=True) for key, value in node.value}


def _other(loader: _Loader, node: yaml.Node) -> Any:
    raise _problem(node, f"the tag {node.tag} has no meaning here; write plain values")


_Loader.yaml_constructors = {
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
    f"{_TAG}seq": lambda loader, node: loader.construct_sequence(node, deep=True),
    f"{_TAG}bool": _bool,
    f"{_TAG}int": _int,
    f"{_TAG}float": _float,
    f"{_TAG}map": _mapping,
    None: _other,
}


def _check(root: yaml.Node) -> None:
    """Refuse keys that stand twice or are no text, and aliases that, written out, are too many values or endless."""
    weights: dict[int, int] = {}
    above: set[int] = set()

    def weigh(node: yaml.Node) -> int:
        known = weights.get(id(node))
        if known is not None:
            return known
        if id(node) in above:
            raise _problem(node, "an alias of what it stands in")
        above.add(id(node))
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            inside = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        weight = 1 + sum(weigh(part) for part in inside)
        above.discard(id(node))
        weights[id(node)] = weight
        if weight > MOST_VALUES:
            raise _problem(node, f"more than {MOST_VALUES:,} values, aliases written out")
        return weight

    weigh(root)


def _check_keys(node: yaml.MappingNode) -> None:
    first: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
            written = f" {key.value!s:.40}" if isinstance(key, yaml.ScalarNode) else ""
            raise _problem(key, f"the key{written} is not text; expected a name, in quotes if need be")
        line = key.start_mark.line + 1
        if key.value in first:
            raise _problem(key, f"{key.value!r} stands twice in one section, first in line {first[key.value]}")
        first[key.value] = line


def _problem(node: yaml.Node, text: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def read_document(text: str, where: str) -> Any:
    """The one document in `text`; `None` when it is empty. Raises `ConfigError`: `where`, the line, what is wrong."""
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{where}: larger than {MOST_BYTES >> 20} MiB; expected a configuration")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        if isinstance(error, yaml.constructor.ConstructorError):
            raise ConfigError(f"{where}{line}: {error.problem}") from error
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}{line}: not YAML: {said}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: not YAML that can be read: nested too deeply") from error


def write_document(data: Any) -> str:
    """Plain data as YAML, in ASCII."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=120))
