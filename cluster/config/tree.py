"""What the schema knows of each field by its path: which may be `none`, which need a written limit, what is near a
mistyped name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.config.document import ConfigError
from cluster.config.schema import CampaignConfig, Limit

NONE = "none"
"""The word of a file, and of `--set`, for an optional field that shall have no value."""
Path = tuple[str | int, ...]


def with_none(data: dict[str, Any], *, limits_may_be_null: bool = False) -> dict[str, Any]:
    """Written data with `None` for the word `none` of optional fields.

    Raises `ConfigError` for a limit (a cap, say) without a value: what was meant to stand there is unknown, and nothing
    would be limited. `limits_may_be_null`: the data are a program's own, which wrote that so.
    """

    def read(path: Path, info: FieldInfo, value: Any) -> Any:
        if value is None and not limits_may_be_null and _is_limit(info):
            raise ConfigError(
                f"the configuration is not usable:\n  {dotted(path)}: no value; expected a number, or the word {NONE} "
                "where nothing shall be limited"
            )
        return None if value == NONE and _may_be_none(info) else value

    read_data: dict[str, Any] = _each(CampaignConfig, data, read)
    return read_data


def with_words(data: dict[str, Any]) -> dict[str, Any]:
    """Validated data as it is written: limits that are not set get the word `none`."""

    def word(_: Path, info: FieldInfo, value: Any) -> Any:
        return NONE if value is None and _is_limit(info) else value

    written: dict[str, Any] = _each(CampaignConfig, data, word)
    return written


def suggestion(path: Path) -> str:
    """`; did you mean X?` for an unknown field, or nothing when no field is near."""
    *above, name = path
    section = _model_at(tuple(above))
    here = [] if section is None else difflib.get_close_matches(str(name), list(section.model_fields), 1)
    if here:
        return f"; did you mean {dotted((*above, here[0]))}?"
    named = [known for known in _fields(CampaignConfig) if known[-1] == name]
    near = named or [known for known in _fields(CampaignConfig) if known[-1] in _near(str(name))]
    return f"; did you mean {dotted(near[0])}?" if near else ""


def may_be_none(path: Path) -> bool:
    """Whether the word `none` is a value of the field at `path`."""
    section = _model_at(path[:-1]) if path else None
    info = None if section is None else section.model_fields.get(str(path[-1]))
    return info is not None and _may_be_none(info)


def dotted(path: Path) -> str:
    """A path as people write it."""
    return ".".join(str(part) for part in path)


def _near(name: str) -> list[str]:
    return difflib.get_close_matches(name, sorted({str(known[-1]) for known in _fields(CampaignConfig)}), 1, 0.8)


def _is_limit(info: FieldInfo) -> bool:
    return any(isinstance(mark, Limit) for mark in info.metadata)


def _may_be_none(info: FieldInfo) -> bool:
    return type(None) in get_args(info.annotation)


def _each(model: type[BaseModel], data: Any, change: Callable[[Path, FieldInfo, Any], Any], at: Path = ()) -> Any:
    """A copy of `data` with `change(path, field, value)` for each value of a known field, sections within lists too."""
    if not isinstance(data, dict):
        return data
    found = {}
    for name, value in data.items():
        info = model.model_fields.get(name)
        if info is not None:
            value = change((*at, name), info, value)
            inner = _model_in(info.annotation)
            if inner is not None:
                value = _inside(inner, info, value, change, (*at, name))
        found[name] = value
    return found


def _inside(
    model: type[BaseModel], info: FieldInfo, value: Any, change: Callable[[Path, FieldInfo, Any], Any], at: Path
) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_each(model, part, change, (*at, n)) for n, part in enumerate(value))
    if isinstance(value, dict) and _is_table(info):
        return {key: _each(model, part, change, (*at, key)) for key, part in value.items()}
    return _each(model, value, change, at)


def _is_table(info: FieldInfo) -> bool:
    return getattr(info.annotation, "__origin__", None) is dict


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section in an annotation such as `dict[str, Section]` or `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _model_at(path: Path) -> type[BaseModel] | None:
    model: type[BaseModel] = CampaignConfig
    inside_table = False
    for part in path:
        if inside_table or isinstance(part, int):
            inside_table = False
            continue
        info = model.model_fields.get(part)
        inner = None if info is None else _model_in(info.annotation)
        if info is None or inner is None:
            return None
        model, inside_table = inner, _is_table(info)
    return model


def _fields(model: type[BaseModel], at: Path = ()) -> Iterator[Path]:
    for name, info in model.model_fields.items():
        yield (*at, name)
        inner = _model_in(info.annotation)
        if inner is not None and not _is_table(info) and getattr(info.annotation, "__origin__", None) is not tuple:
            yield from _fields(inner, (*at, name))
