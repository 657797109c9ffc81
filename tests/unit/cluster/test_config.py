"""The configuration: presets load, bad files are refused with field, value and what was expected."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import CampaignConfig, ConfigError, dump_config, load_config, preset_names, validate
from cluster.config.document import read_document
from cluster.config.tree import with_none
from cluster.money import Caps

ROOT = Path(__file__).resolve().parents[3]


def refused(**arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(**arguments)
    return str(caught.value)


def quickstart(**sections: Any) -> dict[str, Any]:
    return {**_shipped(), **sections}


@functools.cache
def _shipped() -> dict[str, Any]:
    return load_config("quickstart").model_dump(mode="json")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_being_written(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config.preset == name
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file=file) == config
    assert validate(config.model_dump(mode="json")) == config


def test_quickstart_is_nine_distinct_explorers() -> None:
    config = load_config("quickstart")
    assert len(set(config.researcher_ids())) == 9
    assert config.researcher_ids()[0] == "01-elicitation"
    assert len({d.text for d in config.researchers.directions}) == 9
    assert config.brain.kind == "explorer"


@pytest.mark.parametrize(
    ("override", "field", "value", "expectation"),
    [
        ("budget.campaign.usd=-1", "budget.campaign.usd", "-1", "greater than or equal to 0"),
        ("budget.campaign.usd=.inf", "budget.campaign.usd", "inf", "finite"),
        ("budget.campaign.gpu_hours=.nan", "budget.campaign.gpu_hours", "nan", "finite"),
        ("budget.campaign.usd=1.0e+300", "budget.campaign.usd", "1e+300", "less than or equal"),
        ("budget.campaign.answers=1.5", "budget.campaign.answers", "1.5", "integer"),
        ("budget.campaign.cents=3", "budget.campaign.cents", "3", "documented fields"),
        ("research.minutes=soon", "research.minutes", "'soon'", "number"),
        ("research.minutes=0", "research.minutes", "0", "greater than 0"),
        ("runs.pilot_gpus=2", "runs.pilot_gpus", "2", "less than or equal to 1"),
        ("runs.pilot_gpus=0.01", "runs.pilot_gpus", "0.01", "greater than or equal to 0.05"),
        ("task.domains=[poetry]", "task.domains.0", "'poetry'", "'chat', 'math' or 'code'"),
        ("task.domains=[chat, chat]", "task.domains", "['chat', 'chat']", "each domain once"),
        ("task=3", "task", "3", "valid dictionary"),
        ("researchers.directions=[{id: a, text: ' '}]", "researchers.directions.0.text", "' '", "needs a text"),
        ("researchers.directions=[{id: A b, text: x}]", "researchers.directions.0.id", "'A b'", "lower-case"),
        ("researchers.directions=[{id: a}]", "researchers.directions.0.text", "missing", "a value"),
        ("researchers.directions=[]", "researchers.directions", "[]", "at least 1"),
        ("brain.kind=oracle", "brain.kind", "'oracle'", "explorer"),
        ("colour=red", "colour", "'red'", "documented fields"),
        ("scoring.seal_seeds=1", "scoring.seal_seeds", "1", "greater than or equal to 2"),
    ],
)
def test_a_bad_value_is_refused_with_field_value_and_expectation(
    override: str, field: str, value: str, expectation: str
) -> None:
    (line, *_) = [x for x in refused(preset="quickstart", overrides=(override,)).splitlines() if f"  {field}:" in x]
    assert value in line
    assert expectation in line


def test_every_bad_field_is_named_at_once() -> None:
    text = refused(preset="quickstart", overrides=("seed=-1", "runs.pilot_items=0", "nonsense=1"))
    assert all(f"  {field}:" in text for field in ("seed", "runs.pilot_items", "nonsense"))


def test_directions_must_be_distinct() -> None:
    same = "researchers.directions=[{id: a, text: x}, {id: a, text: y}]"
    assert "distinct" in refused(preset="quickstart", overrides=(same,))


@pytest.mark.parametrize("override", ["seed", "=3", ".seed=3", "a..b=1", "research.minutes.x=3", "seed=[1", ""])
def test_a_malformed_override_is_quoted(override: str) -> None:
    assert repr(override) in refused(preset="quickstart", overrides=(override,))


def test_overrides_apply_in_order_and_reach_into_sections() -> None:
    config = load_config("quickstart", overrides=("seed=1", "seed=2", "pool.logical_gpus=3", "forum.enabled=false"))
    assert (config.seed, config.pool.logical_gpus, config.forum.enabled) == (2, 3, False)


def test_an_unknown_preset_lists_the_known_ones(tmp_path: Path) -> None:
    text = refused(preset="quikstart")
    assert "'quikstart'" in text
    assert "quickstart" in text
    assert "either a preset or" in refused()
    assert "either a preset or" in refused(preset="quickstart", file=tmp_path / "x")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("x: 1\na: [1, }", ":2"),
        ("a: b: c", ":1"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
        ("base: nowhere", "'nowhere'"),
        ("base: quickstart\n1: 2", "1"),
        ("task: {domains: [chat]}", "researchers: missing"),
    ],
)
def test_a_bad_file_says_where(tmp_path: Path, body: str, named: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(body, encoding="utf-8")
    assert named in refused(file=file)


def test_a_file_that_is_absent_or_not_text_is_refused(tmp_path: Path) -> None:
    assert "not a file" in refused(file=tmp_path / "absent.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not YAML" in refused(file=tmp_path / "x.yaml")


def test_a_file_may_start_from_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: quickstart\nbudget: {campaign: {usd: 5}}\n", encoding="utf-8")
    config, base = load_config(file=file), load_config("quickstart")
    assert config.budget.campaign.usd == 5
    assert config.budget.campaign.gpu_hours == base.budget.campaign.gpu_hours
    assert config.researchers == base.researchers


def test_caps_are_the_ledgers_integers_and_never_above_what_was_written() -> None:
    config = validate(quickstart(budget={"campaign": {"usd": 1.5, "gpu_hours": 0.1}, "researcher": {"answers": 3}}))
    assert config.budget.campaign.caps() == Caps(usd=1_500_000, gpu_ms=360_000)
    assert config.budget.researcher.caps() == Caps(answers=3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(CampaignConfig.model_fields)), JSON)
@settings(deadline=None, max_examples=150)
def test_any_section_is_accepted_or_refused_by_name_and_caps_never_fail(section: str, value: Any) -> None:
    try:
        config = validate(quickstart(**{section: value}))
    except ConfigError as error:
        named = f"  {section}" in str(error)
    else:
        config.budget.campaign.caps()
        read = validate(with_none(read_document(dump_config(config), "dumped")))
        named = read == config and repr(read) == repr(config)
    assert named


def test_the_configuration_imports_neither_ray_nor_torch() -> None:
    code = "import sys, cluster.config; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0


def test_a_price_of_the_users_own_is_added_to_the_shipped_table() -> None:
    price = "{input: 1.5, output: 7, cache_write_5m: 1.5, cache_write_1h: 1.5, cache_read: 0.075}"
    config = load_config("quickstart", overrides=(f"gateway.prices.mine={price}",))
    assert str(config.gateway.prices["mine"].cache_read) == "0.075"
    opus = config.gateway.prices["claude-opus-4-6"]
    assert [float(value) for value in opus.model_dump().values()] == [5, 25, 6.25, 10, 0.5]


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("gateway.prices.mine={input: -1}", "gateway.prices.mine.input"),
        ("gateway.prices.mine={input: 1}", "gateway.prices.mine.output"),
        ("brain.base_url=ftp://x", "brain.base_url"),
        ("brain.base_url='http://key@host'", "brain.base_url"),
        ("brain.thinking_tokens=100", "brain.thinking_tokens"),
        ("brain={thinking_tokens: 2048, max_tokens: 2048}", "brain"),
    ],
)
def test_a_bad_price_endpoint_or_size_of_thought_is_refused(override: str, field: str) -> None:
    assert f"  {field}" in refused(preset="quickstart", overrides=(override,))


PLACES = ("brain.key_file", "brain.replay_of", "brain.prompt_file", "serve.model", "serve.python", "pool.cache_dir")


@pytest.mark.parametrize("field", PLACES)
def test_every_path_is_absolute_whatever_folder_it_was_written_in(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    section, name = field.split(".")
    for written, meant in (("a/b", str(tmp_path / "a/b")), ("~/b", "/home/me/b"), ("/c", "/c")):
        config = load_config("quickstart", overrides=(f"{field}={written}",))
        assert getattr(getattr(config, section), name) == meant
    for bad in ("''", "~nobody-of-this-name/x"):
        assert f"  {field}:" in refused(preset="quickstart", overrides=(f"{field}={bad}",))


@pytest.mark.parametrize(
    ("overrides", "calls_model", "served"),
    [
        (("brain.kind=explorer",), False, False),
        (("brain.kind=claude",), True, False),
        (("brain.kind=replay",), True, False),
        (("brain.kind=local",), True, True),
        (("brain.kind=local", "brain.base_url=http://127.0.0.1:8000"), True, False),
    ],
)
def test_a_brain_says_whether_it_calls_a_model_and_who_serves_it(
    overrides: tuple[str, ...], calls_model: bool, served: bool
) -> None:
    brain = load_config("quickstart", overrides=overrides).brain
    assert (brain.calls_model, brain.served) == (calls_model, served)
