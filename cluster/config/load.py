"""Reading a configuration: preset or file, `--set` overrides, validation that names field, value and expectation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.config.schema import CampaignConfig
from cluster.errors import AarError
from cluster.file_kind import known_kind, why_not_text

PRESET_DIR = Path(__file__).resolve().parent.parent / "presets"


class ConfigError(AarError):
    """A configuration that cannot be used; the text lists each field, its value and what was expected."""


def preset_names() -> list[str]:
    """The shipped presets."""
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def load_config(preset: str | None = None, file: Path | None = None, overrides: tuple[str, ...] = ()) -> CampaignConfig:
    """The validated configuration of a preset or a file, with `key.path=value` overrides applied in order.

    A file may name a preset to start from with `base: NAME`. Raises `ConfigError`.
    """
    if (preset is None) == (file is None):
        raise ConfigError("give either a preset or a configuration file")
    data = _read_preset(preset) if preset is not None else _read_file(file or Path())
    for override in overrides:
        _apply(data, override)
    return validate(data)


def validate(data: dict[str, Any]) -> CampaignConfig:
    """`data` as a configuration. Raises `ConfigError` naming every bad field."""
    try:
        return CampaignConfig.model_validate(data)
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        raise ConfigError("the configuration is not usable:\n" + "\n".join(lines)) from error


def dump_config(config: CampaignConfig) -> str:
    """The configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _describe(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"  {field}: unknown field (value {problem['input']!r}); expected one of the documented fields"
    if problem["type"] == "missing":
        return f"  {field}: missing; expected a value"
    return f"  {field}: {problem['input']!r} is not valid; expected: {message[0].lower()}{message[1:]}"


def _read_preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise ConfigError(f"preset: {name!r} is unknown; expected one of {', '.join(preset_names())}")
    data = _parse(PRESET_DIR / f"{name}.yaml")
    data = _with_base(data)
    data["preset"] = name
    return data


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"config: {str(path)!r} is not a file")
    data = _with_base(_parse(path))
    data.setdefault("preset", path.stem)
    return data


def _with_base(data: dict[str, Any]) -> dict[str, Any]:
    base = data.pop("base", None)
    return data if base is None else _merge(_read_preset(str(base)), data)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _parse(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(_text(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{where}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, found {type(data).__name__}")
    return data


def _text(path: Path) -> str:
    data = path.read_bytes()
    kind = known_kind(data)
    if kind is not None:
        raise ConfigError(f"{path} is {kind}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is {why_not_text(data, error)}") from error


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: expected key.path=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML") from error
    node = data
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {key!r} is not a section")
        node[key] = child
        node = child
    node[keys[-1]] = value
