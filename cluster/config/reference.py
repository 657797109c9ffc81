"""Every field of a campaign's configuration as a table, from the schema: `python -m cluster.config.reference`."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cluster.config.schema import CampaignConfig

MARK = "<!-- written by cluster.config.reference; a test compares -->"


def reference() -> str:
    """A Markdown table: path, type, default, meaning."""
    rows = [f"| `{path}` | {kind} | {default} | {text} |" for path, kind, default, text in _fields(CampaignConfig, "")]
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        section = _section(field.annotation)
        if section is None:
            yield path, _kind(field.annotation), _default(field), (field.description or "").replace("|", "\\|")
            continue
        kinds: dict[Any, str] = {dict: f"{path}.NAME.", tuple: f"{path}[]."}
        inner = kinds.get(typing.get_origin(field.annotation), f"{path}.")
        if field.description:
            yield path, "section", "", field.description.replace("|", "\\|")
        yield from _fields(section, inner)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone, or as a dictionary's or a tuple's values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _section(part)) is not None), None)


def _kind(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return ", ".join("`none`" if part is type(None) else _kind(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) in (tuple, list):
        return "list"
    if typing.get_origin(annotation) is dict:
        return "mapping"
    return {str: "text", int: "whole number", float: "number", bool: "true, false"}.get(annotation, "value")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or (isinstance(value, dict) and len(str(value)) > 60):
        return "see `prices.py`"
    if value is None:
        return "`none`"
    text = str(value).lower() if isinstance(value, bool) else str(list(value) if isinstance(value, tuple) else value)
    return f"`{text}`" if text else '`""`'


if __name__ == "__main__":
    sys.stdout.write(reference())
