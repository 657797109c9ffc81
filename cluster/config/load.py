"""Reading a configuration: preset or file, `--set` overrides, validation that names field, value and expectation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.config.document import MOST_BYTES, ConfigError, read_document, write_document
from cluster.config.schema import CampaignConfig
from cluster.config.tree import NONE, dotted, may_be_none, suggestion, with_none, with_words
from cluster.file_kind import known_kind, why_not_text

PRESET_DIR = Path(__file__).resolve().parent.parent / "presets"


def preset_names() -> list[str]:
    """The shipped presets."""
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def load_config(preset: str | None = None, file: Path | None = None, overrides: tuple[str, ...] = ()) -> CampaignConfig:
    """The validated configuration of a preset or a file, with `key.path=value` overrides applied in order.

    A file may name a preset to start from with `base: NAME`. The word `none` is no value; a limit that is left empty is
    refused. Raises `ConfigError`.
    """
    if (preset is None) == (file is None):
        raise ConfigError("give either a preset or a configuration file")
    data = _read_preset(preset) if preset is not None else _read_file(file or Path())
    for override in overrides:
        data = _merge(data, _read_override(data, override))
    return validate(with_none(data))


def load_stored(file: Path, overrides: tuple[str, ...] = ()) -> CampaignConfig:
    """The configuration that a campaign wrote into its own directory; earlier versions wrote `null` for no limit.

    Raises `ConfigError`.
    """
    data = _read_file(file)
    for override in overrides:
        data = _merge(data, _read_override(data, override))
    return validate(with_none(data, limits_may_be_null=True))


def validate(data: dict[str, Any]) -> CampaignConfig:
    """`data` as a configuration. Raises `ConfigError` naming every bad field."""
    try:
        return CampaignConfig.model_validate(data)
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        raise ConfigError("the configuration is not usable:\n" + "\n".join(lines)) from error


def dump_config(config: CampaignConfig) -> str:
    """The configuration as YAML that `load_config` reads back as it is; ASCII, whatever the locale."""
    return write_document(with_words(config.model_dump(mode="json")))


def _describe(problem: Any) -> str:
    field = dotted(problem["loc"]) or "(top level)"
    message = str(problem["msg"]).removeprefix("Value error, ")
    shown = repr(problem["input"])
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    if problem["type"] == "extra_forbidden":
        near = suggestion(problem["loc"])
        return f"  {field}: unknown field (value {shown}); expected one of the documented fields{near}"
    if problem["type"] == "missing":
        return f"  {field}: missing; expected a value"
    none = f", or the word {NONE}" if may_be_none(problem["loc"]) else ""
    return f"  {field}: {shown} is not valid; expected: {message[0].lower()}{message[1:]}{none}"


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
    if "base" not in data:
        return data
    base = data.pop("base")
    if not isinstance(base, str):
        raise ConfigError(f"base: {base!r} is not valid; expected one of {', '.join(preset_names())}")
    return _merge(_read_preset(base), data)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section, so that a section that names one field keeps the others."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = _text(path, file.read(MOST_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"config: {str(path)!r} cannot be read: {error.strerror}") from error
    data = read_document(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, found {_kind(data)}")
    return data


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _text(path: Path, data: bytes) -> str:
    kind = known_kind(data)
    if kind is not None:
        raise ConfigError(f"{path}: not YAML: it is {kind}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not YAML: it is {why_not_text(data, error)}") from error


def _read_override(data: dict[str, Any], override: str) -> dict[str, Any]:
    """`key.path=value` as a tree of one branch. Raises `ConfigError` when it is malformed or has no value."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: expected key.path=value")
    try:
        value = read_document(text, f"--set {override!r}")
    except ConfigError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from error
    if value is None and not text.strip():
        raise ConfigError(f"--set {override!r}: no value; expected one, or the word {NONE} for an optional field")
    node: Any = data
    for key in keys[:-1]:
        node = node.get(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {key!r} is not a section")
    for key in reversed(keys):
        value = {key: value}
    branch: dict[str, Any] = value
    return branch
